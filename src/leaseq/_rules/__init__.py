"""The rules of a queue, sans-IO: states, moves, turns, capacity, waiters."""
