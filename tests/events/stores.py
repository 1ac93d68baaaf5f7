"""A store of its own for every event log of a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.settings import Settings
from understudy.store import Store

_opened: dict[Path, Store] = {}


def store_of(root: Path, *, again: bool = False) -> Store:
    """Return the store beside an event log.

    Args:
        root: Root of the event log.
        again: Open it anew, as another process would.
    """
    if again or root not in _opened:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("UNDERSTUDY_HOME", str(root / "home"))
            patch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{root / 'home' / 'store.db'}")
            _opened[root] = Store.open(Settings.from_env())
    return _opened[root]
