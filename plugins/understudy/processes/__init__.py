"""Servers as child processes: ready in time, stopped for good, and gone when whoever started them dies."""
