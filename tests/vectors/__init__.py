"""Vectors: states, events and sequences with what comes of them, in JSON, for every engine.

`moves.json` has, for each state that a key can be in and each event, what becomes of it;
`turns.json` has sequences of puts, hand-outs and ends with the key that each hand-out gives;
`due.json` has what comes of items and leases that fall due in one step. They are written from the
rules in `leaseq._rules.moves`, by ``python -m tests.vectors``, and fed to each engine by a driver
of its own.
"""
