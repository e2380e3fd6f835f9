"""The batcher: an accumulator in front of a callback, flushed by size or by age."""
