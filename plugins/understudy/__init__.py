"""Understudy: move machine-learning experiments safely into production."""

__version__ = "0.1.0"
