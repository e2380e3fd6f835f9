"""Numbers that the scripts and what starts them share."""

CONCURRENCY = 32

BATCH = 500
"""How many items go in at once, with queues that have a call for that."""

KEEP = 300
"""For how many seconds results are kept, where they are."""
