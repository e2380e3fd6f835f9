"""A store in a file, by SQLite."""
