"""The IO threads."""
