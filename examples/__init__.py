"""Worked examples that run on the real system."""
