"""The longer look of the state machine: `pytest tests/machine --hypothesis-profile=long`."""

from hypothesis import settings

LONG = "long"
settings.register_profile(LONG)
