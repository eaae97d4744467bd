"""Choosing a driver, falling back to another one, and what every driver promises (``contract``)."""
