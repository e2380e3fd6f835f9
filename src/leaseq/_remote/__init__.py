"""The client of a store that processes share: dispatcher, waiters, queues, broker."""
