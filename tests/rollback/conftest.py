"""The installation of the lifecycle's tests: a real MLflow server, and a registered model for every test."""

from tests.lifecycle.conftest import datasets, make_world, models, world

__all__ = ["datasets", "make_world", "models", "world"]
