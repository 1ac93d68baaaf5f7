"""Compacts the log of a test, and looks at what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from tests.events.stores import store_of
from tests.events.test_evidence import NOW, QUERY, RUN
from tests.events.test_reader import MODEL
from understudy.events.compaction import Compaction, compact
from understudy.events.evidence import collect
from understudy.stats.evidence import Evidence


def squeeze(events: Path, **more: Any) -> Compaction:
    """Compact everything that nobody writes."""
    return compact(events / MODEL, now=2e9, quiet=-3e9, **more)


def look(root: Path, now: float = NOW) -> Evidence:
    return collect(store_of(root), root, QUERY, RUN, now)


def segments(root: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.name}" for path in (root / MODEL).glob("*/*.jsonl"))


def stored(root: Path, kind: str = "requests") -> list[dict[str, Any]]:
    """Return what anybody reads who knows nothing but the folder."""
    found = duckdb.sql(f"SELECT * FROM '{root / MODEL / kind}/*/*/*.parquet' ORDER BY received_at, event_id")
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
