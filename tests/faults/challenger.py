"""What a challenger in trouble may do to the champion: nothing."""

from __future__ import annotations

import time

from tests.faults.load import Answer
from tests.faults.stage import GOOD, UNITS, Found, Stage, lost, settled, times

__all__ = [
    "PROCESS_LOST",
    "TROUBLES",
    "exposed_trouble",
    "hanging_load",
    "mirror_overrun",
    "mirrored_trouble",
]

TROUBLES = (
    "sleeps",
    "raises",
    "raises SystemExit",
    "answers too often",
    "answers too seldom",
    "answers with one number",
    "answers NaN",
    "answers with text",
    "answers with an object",
    "floods its output",
    "burns the processor",
    "exits",
    "kills itself",
    "crashes",
    "leaves a child behind",
    "eats memory",
    "hangs",
    "holds the interpreter",
)
"""Moods of the challenger."""

PROCESS_LOST = TROUBLES[TROUBLES.index("exits") :]
"""Those that cost it its process."""


def exposed_trouble(
    stage: Stage,
    mood: str,
    seconds: float,
    *,
    turns: int = 1,
    rate: float = 100.0,
    recovery: float | None = None,
) -> Found:
    """Expose half of the units to a challenger in trouble, in turns with exposing nobody.

    Args:
        stage: The gateway.
        mood: What the challenger does.
        seconds: Length of each turn.
        turns: Turns with, and as many without.
        rate: Requests a second, half of them for the champion's units.
        recovery: Seconds in which the challenger must answer again once its mood is good; nothing if nobody waits for it.
    """
    stage.publish(challenger=stage.moody, percent=50.0)
    began, opened, closed, starts = time.time(), *stage.breaker(), stage.starts()
    quiet: list[Answer] = []
    troubled: list[Answer] = []
    with (
        stage.load(stage.shielded, rate / 2) as champions,
        stage.load(stage.exposed, rate / 2, threads=8) as challengers,
    ):
        challengers.wait_for(lambda answer: answer.version == stage.moody, 120)
        for _ in range(turns):
            # The process stays; it is only not asked.
            stage.publish(challenger=stage.moody)
            quiet += settled(champions, seconds)
            stage.mood.write_text(mood)
            stage.publish(challenger=stage.moody, percent=50.0)
            troubled += settled(champions, seconds)
            stage.mood.write_text(GOOD)
        notes = ""
        if recovery is not None:
            back = challengers.wait_for(lambda answer: answer.version == stage.moody, recovery)
            notes = f"answers again after {back:.1f} s; "
    everything = champions.answers + challengers.answers
    now_opened, now_closed = stage.breaker()
    by_champion = [answer for answer in challengers.answers if answer.version != stage.moody]
    return Found(
        requests=len(everything),
        lost=lost(everything),
        wrong=stage.wrong(champions.answers + by_champion, stage.champion),
        quiet=times(quiet),
        troubled=times(troubled),
        breaker=f"opened {now_opened - opened}, closed {now_closed - closed}",
        notes=notes + f"process started again {stage.starts() - starts} times",
        fallbacks=stage.fallbacks(began),
    )


def mirrored_trouble(
    stage: Stage, mood: str, seconds: float, *, turns: int = 1, rate: float = 100.0
) -> Found:
    """Mirror every request to a challenger in some mood, in turns with no mirror.

    Args:
        stage: The gateway.
        mood: What the challenger does.
        seconds: Length of each turn.
        turns: Turns with, and as many without.
        rate: Requests a second.
    """
    stage.publish(challenger=stage.moody, mirror=True)
    before = stage.gateway.status()["mirror"]
    quiet: list[Answer] = []
    troubled: list[Answer] = []
    with stage.load(UNITS, rate) as load:
        for _ in range(turns):
            stage.mood.write_text(GOOD)
            stage.publish(challenger=stage.moody)
            quiet += settled(load, seconds)
            stage.mood.write_text(mood)
            stage.publish(challenger=stage.moody, mirror=True)
            troubled += settled(load, seconds)
        stage.mood.write_text(GOOD)
    mirror = stage.gateway.status()["mirror"]
    return Found(
        requests=len(load.answers),
        lost=lost(load.answers),
        wrong=stage.wrong(load.answers, stage.champion),
        quiet=times(quiet),
        troubled=times(troubled),
        dropped=mirror["dropped"] - before["dropped"],
        notes=f"{mirror['events'] - before['events']} rows mirrored",
    )


def mirror_overrun(stage: Stage, seconds: float, *, rate: float = 400.0) -> Found:
    """Offer the mirror more than it can hold while it sleeps, and account for every row.

    Args:
        stage: The gateway.
        seconds: How long, and how long there is no mirror before.
        rate: Requests a second.
    """
    stage.publish(challenger=stage.moody)
    with stage.load(UNITS, rate) as load:
        quiet = settled(load, seconds)
    stage.wait_for_mirror()
    before = stage.mirrored()
    stage.mood.write_text("sleeps")
    stage.publish(challenger=stage.moody, mirror=True)
    with stage.load(UNITS, rate) as mirrored:
        troubled = settled(mirrored, seconds)
    stage.mood.write_text(GOOD)
    stage.wait_for_mirror()
    after = stage.mirrored()
    fates = {fate: int(after[fate] - before[fate]) for fate in after}
    assert fates["dropped"] > 0, "the queue was never full"
    unaccounted = abs(len(mirrored.answers) - sum(fates.values()))
    everything = load.answers + mirrored.answers
    return Found(
        requests=len(everything),
        lost=lost(everything),
        wrong=stage.wrong(everything, stage.champion) + unaccounted,
        quiet=times(quiet),
        troubled=times(troubled),
        dropped=fates["dropped"],
        notes=f"of {len(mirrored.answers)} rows {fates['scored']} mirrored; {unaccounted} unaccounted for",
    )


def hanging_load(stage: Stage, seconds: float, *, rate: float = 100.0) -> Found:
    """Publish a challenger that never finishes loading, then take it back.

    Args:
        stage: The gateway.
        seconds: How long it may try, and how long there is nothing of it before.
        rate: Requests a second.
    """
    stage.publish()
    with stage.load(UNITS, rate) as load:
        quiet = settled(load, seconds)
        stage.mood.write_text("hangs at load")
        wanted = stage.publish(wait=False, challenger=stage.moody, percent=50.0)
        troubled = settled(load, seconds)
        waiting = stage.gateway.status()
        stage.mood.write_text(GOOD)
        # A later document does not wait for what an earlier one wanted.
        stage.publish(generation=wanted.generation + 1)
    return Found(
        requests=len(load.answers),
        lost=lost(load.answers),
        wrong=stage.wrong(load.answers, stage.champion),
        quiet=times(quiet),
        troubled=times(troubled),
        notes="nobody was exposed meanwhile" if not waiting["exposed"] else "EXPOSED",
    )
