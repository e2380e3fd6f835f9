"""What the engine costs that keeps its queues on a server: ``python -m benchmarks.server``."""
