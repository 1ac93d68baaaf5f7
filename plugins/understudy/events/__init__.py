"""The event log: what was served to whom, what came of it, and what the mirror said."""
