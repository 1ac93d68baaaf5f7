"""The installation of the lifecycle's tests: a real MLflow server and real small models."""

from tests.lifecycle.conftest import datasets, make_world, models, world

__all__ = ["datasets", "make_world", "models", "world"]
