"""From facts to tables."""
