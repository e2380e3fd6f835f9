"""What the queue costs, beside other queues: ``python -m benchmarks``."""
