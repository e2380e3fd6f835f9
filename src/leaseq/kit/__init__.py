"""What engines are built from: the parts that are the same wherever the items live."""
