"""What this room needs of an installation, so that it need not know who opened it."""

from __future__ import annotations

from typing import Protocol

from understudy.points.snapshots import Snapshots
from understudy.registry import Registry
from understudy.settings import Settings
from understudy.store import Store

__all__ = ["Doors", "snapshots_of"]


class Doors(Protocol):
    """The settings, the store and the registry of one installation."""

    @property
    def settings(self) -> Settings:
        """Where everything lies."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def registry(self) -> Registry:
        """MLflow's registry."""


def snapshots_of(doors: Doors) -> Snapshots:
    """Return the snapshots of an installation."""
    return Snapshots(doors.settings.snapshots_dir)
