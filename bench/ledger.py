"""Walking a ledger of a million entries, exporting it and verifying the file: seconds, entries per second, memory.

The entries are those of exposure being raised, with the particulars that such an entry has. Each walk runs in a process of its
own, which tells its own peak memory and CPU time: other work on the machine lengthens the wall clock, not that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ENTRIES = 1_000_000
GOALS = {"seconds": 20.0, "memory": 300.0}
_AT_ONCE = 5000


def main(entries: int = ENTRIES) -> None:
    """Print one line a measurement."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        os.environ |= {"UNDERSTUDY_HOME": folder, "UNDERSTUDY_STORE_URL": f"sqlite:///{folder}/store.db"}
        began = time.perf_counter()
        _fill(entries)
        size = Path(folder, "store.db").stat().st_size / 1e6
        print(
            f"{entries:,} entries, {size:.0f} MB, written in {time.perf_counter() - began:.1f} s", flush=True
        )
        exported = Path(folder, "ledger.jsonl")
        _show("verify", _apart("verify"), entries, GOALS)
        _show("export", _apart("export", exported), entries)
        _show("verify the file", _apart("file", exported), entries)


def _show(what: str, found: dict[str, Any], entries: int, goals: dict[str, float] | None = None) -> None:
    assert found["entries"] == entries, found
    told = ""
    if goals:
        met = found["wall"] <= goals["seconds"] and found["memory"] <= goals["memory"]
        told = f" (at most {goals['seconds']:g} s, {goals['memory']:g} MB: {'met' if met else 'MISSED'})"
    print(
        f"{what:18} {found['wall']:7.2f} s  {found['cpu']:7.2f} s CPU  {entries / found['wall']:10,.0f} entries/s "
        f"{found['memory']:6.0f} MB{told}",
        flush=True,
    )


def _fill(entries: int) -> None:
    from understudy.settings import Settings
    from understudy.store import Store, schema

    store = Store.open(Settings.from_env())
    rows = _rows(entries)
    with store.write() as connection:
        statement = schema.ledger.insert().compile(dialect=store.engine.dialect)
        names = list(schema.ledger.c.keys())
        cursor = connection.connection.cursor()
        while batch := [tuple(row[name] for name in names) for row in islice(rows, _AT_ONCE)]:
            cursor.executemany(str(statement), batch)
    store.close()


def _rows(entries: int) -> Iterator[dict[str, Any]]:
    from understudy.record.chain import GENESIS, canonical, content_digest, link

    previous = GENESIS
    for seq in range(1, entries + 1):
        body = canonical(
            {
                "from": 1.0, "to": 5.0, "rings": {"origin=JFK": 50.0}, "generation": seq, "version": str(seq % 40),
                "contained": [], "stage": 2, "lease_before": 1_700_000_000 + seq, "trace_id": f"{seq:032x}",
            }
        )  # fmt: skip
        about = (
            seq, 1.7e9 + seq * 0.37, "understudy", "exposure.raised", f"model-{seq % 7}", f"run-{seq // 20}",
            "Stage 2: 5 % of units, 50 % of origin=JFK.",
        )  # fmt: skip
        digest = link(previous, content_digest(about, body))
        names = ("seq", "at", "actor", "action", "model", "run_id", "reason")
        yield dict(zip(names, about, strict=True)) | {"body": body, "previous": previous, "digest": digest}
        previous = digest


def _apart(what: str, path: Path | None = None) -> dict[str, Any]:
    command = [
        sys.executable,
        "-c",
        f"from bench.ledger import measure; measure({what!r}, {str(path or '')!r})",
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(what: str, path: str) -> None:
    """Do one thing and print what it took; runs in a process of its own."""
    import resource

    from understudy.record.exported import verify_lines
    from understudy.settings import Settings
    from understudy.store import Store, history, ledger

    store = Store.open(Settings.from_env())
    wall, cpu = time.perf_counter(), time.process_time()
    if what == "verify":
        with store.read() as connection:
            examined = ledger.examine(connection)
        assert examined.broken is None, examined.broken
        entries = examined.entries
    elif what == "export":
        with store.read() as connection, Path(path).open("w") as file:
            entries = sum(1 for line in history.export(connection, 0.0) if file.write(line + "\n")) - 1
    else:
        with Path(path).open() as file:
            _, walk, entries = verify_lines(file)
        assert walk.broken is None, walk.broken
    found = {
        "entries": entries,
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else ENTRIES)
