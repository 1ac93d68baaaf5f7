"""Looks that fold only what is new: late outcomes, several processes, restarts, and past looks again."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.events.stores import store_of
from tests.events.test_evidence import NOW, QUERY, RUN, outcome, time_passes, world
from tests.events.test_reader import MODEL, request, write
from understudy.errors import StoreError
from understudy.events import evidence as looks
from understudy.events.evidence import EvidenceQuery, MetricQuery, Replay, collect, series
from understudy.events.fold import Fold
from understudy.events.increment import Increment
from understudy.events.totals import Totals
from understudy.stats.evidence import Evidence
from understudy.store import moments


def look(root: Path, now: float = NOW, query: EvidenceQuery = QUERY, **more: Any) -> Evidence:
    return collect(store_of(root), root, query, RUN, now, **more)


def another_process() -> None:
    """Forget what this process knows, as a new one would not know it."""
    looks._progress.clear()


def copy_in_parts(source: Path, target: Path, parts: int, seed: int = 1) -> list[Path]:
    """Return folders of lines that together are the log, cut at random places, to be appended in turn."""
    rng = np.random.default_rng(seed)
    pieces: list[dict[str, bytes]] = [{} for _ in range(parts)]
    for path in sorted((source / MODEL).glob("*/*.jsonl")):
        lines = path.read_bytes().splitlines(keepends=True)
        cuts = [0, *sorted(rng.integers(0, len(lines) + 1, parts - 1).tolist()), len(lines)]
        for index in range(parts):
            pieces[index][f"{path.parent.name}/{path.name}"] = b"".join(lines[cuts[index] : cuts[index + 1]])
    folders = []
    for index, piece in enumerate(pieces):
        folder = target / str(index)
        for name, data in piece.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        folders.append(folder)
    return folders


def append(root: Path, part: Path) -> None:
    for path in sorted(part.glob("*/*.jsonl")):
        target = root / MODEL / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as stream:
            stream.write(path.read_bytes())


def sums(found: Evidence) -> dict[tuple[str, str], list[float]]:
    return {
        (cell.metric, cell.cohort): [
            *(float(x) for arm in (cell.control, cell.challenger) for x in (*arm.sum_n, *arm.sum_d))
        ]
        for cell in found.cells
    }


@pytest.mark.parametrize("restarts", [False, True])
def test_many_small_looks_know_what_one_look_knows(tmp_path: Path, restarts: bool) -> None:
    whole = tmp_path / "whole"
    world(whole, events=400)
    parts = copy_in_parts(whole, tmp_path / "parts", 7)
    grown = tmp_path / "grown"
    for part in parts:
        append(grown, part)
        if restarts:
            another_process()
        look(grown)
    found, expected = look(grown), look(whole)
    assert found.seq > 3
    assert sums(found).keys() == sums(expected).keys()
    for key, values in sums(expected).items():
        assert sums(found)[key] == pytest.approx(values, abs=1e-9)
    for block in ("control", "challenger", "stages", "splits", "duplicates", "newest_received_at"):
        assert getattr(found.quality, block) == getattr(expected.quality, block)


def test_any_past_look_is_rebuilt_bit_for_bit_without_the_log(tmp_path: Path) -> None:
    world(tmp_path / "whole", events=300)
    seen = []
    for part in copy_in_parts(tmp_path / "whole", tmp_path / "parts", 5):
        append(tmp_path, part)
        seen.append(look(tmp_path))
    (tmp_path / MODEL).rename(tmp_path / "gone")
    another_process()
    store = store_of(tmp_path, again=True)
    assert [found.seq for found in seen] == [1, 2, 3, 4, 5]
    for found in seen:
        again = Replay(store, QUERY, RUN).at(found.seq)
        assert again.digest == found.digest
        assert again.to_dict()["cells"] == found.to_dict()["cells"]
        assert again.looked_at == found.looked_at


def test_a_look_at_nothing_new_stores_nothing(tmp_path: Path) -> None:
    world(tmp_path, events=50)
    first = look(tmp_path)
    write(tmp_path, "requests", "w-0", request(900, run="another"), b"torn")
    second = look(tmp_path, NOW + 5)
    assert (first.seq, second.seq, first.digest) == (1, 1, second.digest)
    assert (second.looked_at, second.quality.torn_lines) == (NOW + 5, 1)


def test_a_late_outcome_is_a_new_increment_and_the_old_ones_stay(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(20)), *time_passes(20))
    write(tmp_path, "outcomes", "w-0", *(outcome(n) for n in range(15)))
    first = look(tmp_path)
    write(tmp_path, "outcomes", "w-0", *(outcome(n, received_at=9000.0) for n in range(12, 20)))
    second = look(tmp_path)
    counts = [(q.matured, q.labelled, q.missing) for q in (first.quality.control, second.quality.control)]
    assert counts == [(20, 15, 5), (20, 20, 0)]
    assert [float(found.cell("brier").control.sum_d.sum()) for found in (first, second)] == [15, 20]
    assert second.quality.repeated_outcomes == 3
    assert Replay(store_of(tmp_path), QUERY, RUN).at(1).digest == first.digest


def test_an_outcome_with_an_early_receipt_that_is_read_late_changes_nothing_that_was_counted(
    tmp_path: Path,
) -> None:
    write(tmp_path, "requests", "w-0", request(1), *time_passes(2))
    write(tmp_path, "outcomes", "w-0", outcome(1, 1.0))
    first = look(tmp_path)
    write(tmp_path, "outcomes", "w-1", outcome(1, 0.0, received_at=4000.0))
    write(tmp_path, "requests", "w-1", request(1, prediction=0.9, received_at=900.0))
    second = look(tmp_path)
    assert sums(first) == sums(second)
    assert (second.quality.duplicates, second.quality.control.events) == (1, 1)


def test_processes_that_look_at_once_count_every_event_once(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    world(whole, events=400)
    store = store_of(tmp_path)
    failed: list[BaseException] = []

    def watch(progress: looks._Progress) -> None:
        try:
            for _ in range(6):
                with progress.lock:
                    progress.look(store, NOW)
        except BaseException as error:
            failed.append(error)

    for part in copy_in_parts(whole, tmp_path / "parts", 4):
        append(tmp_path, part)
        # Three processes' worth of state; they share nothing but the log and the store.
        others = [looks._Progress(tmp_path, QUERY, RUN) for _ in range(3)]
        threads = [threading.Thread(target=watch, args=(other,)) for other in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    found, expected = look(tmp_path), look(whole)
    for key, values in sums(expected).items():
        assert sums(found)[key] == pytest.approx(values, abs=1e-9)
    assert found.quality.control == expected.quality.control


def test_who_loses_the_race_goes_on_from_what_the_other_stored(tmp_path: Path) -> None:
    world(tmp_path, events=100)
    store = store_of(tmp_path)
    slow, fast = (looks._Progress(tmp_path, QUERY, RUN) for _ in range(2))
    mine = slow.fold.look(NOW)
    write(tmp_path, "requests", "w-0", *(request(500 + n, unit=f"n{n}") for n in range(30)))
    fast.look(store, NOW)
    assert not slow._store(store, mine)
    slow.fold.take_back()
    slow.look(store, NOW)
    assert slow.account.evidence().digest == fast.account.evidence().digest
    assert slow.account.at.seq == 1


def test_a_watermark_that_falls_back_uncounts_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    query = replace(QUERY, maturity=100.0)
    wild = request(0, event_time=900.0)
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(1, 9)), wild)
    write(tmp_path, "outcomes", "w-0", *(outcome(n) for n in range(60)))
    early = look(tmp_path, query=query)
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(9, 60)))
    later = look(tmp_path, query=query)
    another_process()
    write(tmp_path, "requests", "w-0", *(request(n, event_time=10.0 + n) for n in range(200, 230)))
    last = look(tmp_path, query=query)
    assert [found.quality.watermark for found in (early, later)] == [900.0, 65.0]
    labelled = [float(found.cell("brier").control.sum_d.sum()) for found in (early, later, last)]
    assert labelled[:2] == [8, 8]
    assert labelled[2] == 59  # the wild one is not ripe


def test_increments_of_another_question_are_refused(tmp_path: Path) -> None:
    world(tmp_path, events=20)
    look(tmp_path)
    with pytest.raises(StoreError, match="measured something else"):
        look(tmp_path, query=replace(QUERY, maturity=5.0))


def test_contained_cohorts_leave_everybody_at_every_stage(tmp_path: Path) -> None:
    world(tmp_path, events=300)
    everybody, rest = look(tmp_path), look(tmp_path, without=("origin=LGA",))
    jfk = everybody.cell("brier", "origin=JFK")
    left = rest.cell("brier")
    assert left.control.sum_d.tolist() == jfk.control.sum_d.tolist()
    assert left.challenger.sum_n == pytest.approx(jfk.challenger.sum_n)
    assert rest.cell("brier", "origin=LGA").to_dict() == everybody.cell("brier", "origin=LGA").to_dict()
    assert rest.digest != everybody.digest
    assert Replay(store_of(tmp_path), QUERY, RUN).at(rest.seq, ("origin=LGA",)).digest == rest.digest


def test_metrics_can_be_followed_over_the_hours(tmp_path: Path) -> None:
    events = [
        request(n, event_time=3600.0 * (n // 10), received_at=1e5 + n, latency_ms=20.0 if n < 10 else 1.0)
        for n in range(40)
    ]
    write(tmp_path, "requests", "w-0", *events)
    look(tmp_path)
    slow = next(
        part
        for part in series(store_of(tmp_path), QUERY, RUN)
        if (part.metric, part.arm) == ("slow", "control")
    )
    assert (slow.hour.tolist(), slow.n.tolist(), slow.mean.tolist()) == ([0, 1, 2, 3], [10] * 4, [1, 0, 0, 0])


def test_a_gap_or_a_change_in_the_store_is_noticed(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    world(tmp_path, events=40)
    look(tmp_path)
    with store.read() as connection:
        (one,) = moments.load(connection, RUN)
    with store.write() as connection:
        assert not moments.append(connection, one)
        with pytest.raises(ValueError, match="cannot follow"):
            moments.append(connection, replace(one, seq=5))
    with pytest.raises(StoreError, match="wanted"):
        Replay(store, QUERY, RUN).at(3)


def test_what_is_done_with_leaves_only_its_id(tmp_path: Path) -> None:
    world(tmp_path, events=200)
    progress = looks._Progress(tmp_path, QUERY, RUN)
    progress.look(store_of(tmp_path), NOW)
    tables = ("ids", "pending", "known", "requests", "outcomes")
    kept = {table: progress.fold._log.run(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    assert kept == {"ids": 210, "pending": 0, "known": 0, "requests": 0, "outcomes": 0}


def test_a_log_that_was_replaced_under_a_running_process_counts_nothing_twice(tmp_path: Path) -> None:
    world(tmp_path, events=60)
    first = look(tmp_path)
    path = tmp_path / MODEL / "requests" / "w-0.jsonl"
    data = path.read_bytes()
    path.unlink()
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").rename(path)
    write(tmp_path, "requests", "w-0", request(700))
    second = look(tmp_path)
    assert second.quality.control.events == first.quality.control.events + 1
    path.write_bytes(b"")
    assert look(tmp_path).quality.lost_segments == 1


def test_fold_state_survives_a_look_that_breaks_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world(tmp_path, events=60)

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Fold, "_count", broken)
        with pytest.raises(RuntimeError):
            look(tmp_path)
    found = look(tmp_path)
    assert found.quality.control.events + found.quality.challenger.events == 60
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_numbers_may_come_one_after_another(tmp_path: Path) -> None:
    query = EvidenceQuery(
        MODEL, (MetricQuery("brier", "brier"), MetricQuery("sales", "mean", value="sales", better="higher"))
    )
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(5)), *time_passes(5))
    write(tmp_path, "outcomes", "w-0", *(outcome(n) | {"values": None} for n in range(5)))
    first = look(tmp_path, query=query)
    later = [outcome(n, None, 9000.0) | {"values": {"sales": 2.0 + n}} for n in range(5)]
    write(tmp_path, "outcomes", "w-0", *later)
    another_process()
    second = look(tmp_path, query=query)
    assert [float(found.cell("brier").control.sum_d.sum()) for found in (first, second)] == [5, 5]
    assert [float(found.cell("sales").control.sum_n.sum()) for found in (first, second)] == [0, -20]
    assert (first.quality.without_value, second.quality.without_value) == (
        {"brier": 0, "sales": 5},
        {"brier": 0, "sales": 0},
    )


def test_a_new_process_starts_from_the_newest_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "_SUMMARY_EVERY", 3)
    world(tmp_path / "whole", events=300)
    seen = []
    for part in copy_in_parts(tmp_path / "whole", tmp_path / "parts", 8):
        append(tmp_path, part)
        seen.append(look(tmp_path))
    store = store_of(tmp_path)
    with store.read() as connection:
        newest = moments.newest_summary(connection, RUN)
        stored = moments.load(connection, RUN)
    assert newest is not None
    assert newest.seq == 6
    bodies = [Increment.unpack(item.body) for item in stored]
    one_by_one, together = Totals(QUERY), Totals(QUERY)
    for body in bodies:
        one_by_one.add(body)
    together.add(Increment.together(bodies))
    for totals in (one_by_one, together):
        assert [cell.to_dict() for cell in totals.cells()] == [cell.to_dict() for cell in seen[-1].cells]
    for found in seen:
        assert Replay(store, QUERY, RUN).at(found.seq).digest == found.digest
    # What is asked of the sums beside the cells starts from the summary, too.
    assert looks.traffic(store, QUERY, RUN) == one_by_one.traffic()
    for ours, theirs in zip(series(store, QUERY, RUN), one_by_one.series(), strict=True):
        assert (ours.metric, ours.arm, ours.hour.tolist()) == (
            theirs.metric,
            theirs.arm,
            theirs.hour.tolist(),
        )
        assert (ours.n.tolist(), ours.mean.tolist()) == (
            theirs.n.tolist(),
            pytest.approx(theirs.mean.tolist()),
        )
    another_process()
    write(tmp_path, "requests", "w-0", *(request(n, unit="late") for n in range(900, 940)))
    last = look(tmp_path)
    assert last.seq == 9
    assert last.quality.control.events == seen[-1].quality.control.events + 40
