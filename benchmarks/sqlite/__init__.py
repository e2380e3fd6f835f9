"""What queues in a file cost."""
