"""The two ways of saying no: to a model while it is compiled, and to single rows afterwards. MLflow then answers."""

from __future__ import annotations

__all__ = ["CannotCompile", "Declined"]


class CannotCompile(Exception):
    """A model has something that is not compiled; the text says what, for people."""


class Declined(Exception):
    """Some rows are outside what the proof covers: too large, null where that is an error, or of an unknown category."""
