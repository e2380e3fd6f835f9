"""The engine in this process: queues, broker and timekeeper over the rules."""
