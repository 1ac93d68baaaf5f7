"""Which code decided: a digest of everything that turns evidence into a decision."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

__all__ = ["core_digest"]

_ROOMS = ("policy", "rehearsal", "spec", "stats", "exposure.py", "verdicts.py")


@cache
def core_digest() -> str:
    """Return the SHA-256 of the source of the deciding core, whatever the version is called.

    Two installations with the same digest come to the same decisions from the same moments and spec.
    """
    package = Path(__file__).resolve().parents[1]
    files = (path for room in _ROOMS for path in _sources(package / room))
    found = hashlib.sha256()
    for path in sorted(files):
        found.update(f"{path.relative_to(package)}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _sources(room: Path) -> list[Path]:
    return sorted(room.rglob("*.py")) if room.is_dir() else [room]
