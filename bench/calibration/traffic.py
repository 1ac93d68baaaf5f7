"""Simulated traffic: units arrive, are split between the arms, come back, and carry what they and the hour are like."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.calibration.distributions import Array
from understudy.exposure import TOTAL_WEIGHT, weights

__all__ = ["BUCKETS", "DESIGNS", "STRUCTURES", "Crowd", "Design", "Events", "Structure", "Traffic"]

BUCKETS = 256
"""Moments are kept by bucket of units: the first two hex digits of a unit's pseudonym."""

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Structure:
    """How values hang together.

    Attributes:
        name: short name.
        label: what the report calls it.
        events: events of each unit, one per look from its arrival on.
        unit: share of the latent's variance that stays with the unit.
        hour: share that everybody has in common at a look.
        lag_one: correlation of the rest with the same unit's rest one look before; also of the common part with itself.
    """

    name: str
    label: str
    events: int = 1
    unit: float = 0.0
    hour: float = 0.0
    lag_one: float = 0.0


STRUCTURES = (
    Structure("independent", "each unit once"),
    Structure("repeating", "repeating units", events=5, unit=0.5),
    Structure("autocorrelated", "lag-1 autocorrelation 0.3", events=5, hour=0.1, lag_one=0.3),
    Structure("both", "repeating and autocorrelated", events=5, unit=0.4, hour=0.1, lag_one=0.3),
)


@dataclass(frozen=True)
class Design:
    """How units are split.

    Attributes:
        name: short name.
        label: what the report calls it.
        challenger: share of all units.
        control: share of all units.
    """

    name: str
    label: str
    challenger: float
    control: float

    @classmethod
    def staged(cls, percent: float) -> Design:
        """Return the split that the product publishes at a stage."""
        challenger, _, control = (weight / TOTAL_WEIGHT for weight in weights(percent))
        label = (
            f"{percent:g} %" if challenger == control else f"{challenger:.0%} against {control:.0%} holdback"
        )
        return cls(f"staged-{percent:g}", label, challenger, control)

    @classmethod
    def against_the_rest(cls, percent: float) -> Design:
        """Return the split without a control of its own size: everybody else is control."""
        return cls(f"rest-{percent:g}", f"{percent:g} % against the rest", percent / 100, 1 - percent / 100)


DESIGNS = tuple(Design.staged(percent) for percent in (1, 5, 25, 50))


@dataclass(frozen=True)
class Events:
    """Events of one look in one arm; all arrays have one entry per event.

    Attributes:
        replicate: which simulated run.
        bucket: bucket of its unit.
        latent: standard normal.
    """

    replicate: Index
    bucket: Index
    latent: Array


@dataclass
class _Generation:
    """Units that arrived at the same look."""

    replicate: Index
    bucket: Index
    own: Array
    place: Array | None = None
    rest: Array | None = None
    age: int = 0


@dataclass
class _Source:
    """What single looks are made of.

    Attributes:
        rng: the generator.
        replicates: simulated runs, all at once.
        design: split between the arms.
        structure: how values hang together.
        per_look: events per look that the smaller arm has on average once units of every age are around.
    """

    rng: np.random.Generator
    replicates: int
    design: Design
    structure: Structure
    per_look: float
    _common: Array | None = None

    def _crowd(self) -> int:
        """Return how many units arrive per run and look, over all arms."""
        smallest = min(self.design.challenger, self.design.control)
        return max(2, round(self.per_look / self.structure.events / smallest))

    def _born(self, count: Index) -> _Generation:
        replicate = np.repeat(np.arange(self.replicates), count)
        bucket = self.rng.integers(0, BUCKETS, replicate.size)
        own = self._normal(replicate.size) if self.structure.unit else np.zeros(replicate.size)
        return _Generation(replicate, bucket, own)

    def _events(self, alive: list[_Generation]) -> Events:
        """Return one event of every unit that is around, and let those go that have had their last."""
        shape, parts = self.structure, []
        for generation in alive:
            generation.rest = self._next(generation.rest, generation.replicate.size)
            generation.age += 1
            latent = generation.rest * np.sqrt(1 - shape.unit - shape.hour)
            if shape.unit:
                latent += generation.own * np.sqrt(shape.unit)
            if shape.hour and self._common is not None:
                latent += self._common[generation.replicate] * np.sqrt(shape.hour)
            parts.append(latent)
        found = Events(
            np.concatenate([generation.replicate for generation in alive]),
            np.concatenate([generation.bucket for generation in alive]),
            np.concatenate(parts),
        )
        alive[:] = [generation for generation in alive if generation.age < shape.events]
        return found

    def _next(self, before: Array | None, size: int) -> Array:
        """Return the next value of a stationary autoregression of order one."""
        fresh, lag = self._normal(size), self.structure.lag_one
        return fresh if before is None or not lag else lag * before + np.sqrt(1 - lag**2) * fresh

    def _normal(self, size: int) -> Array:
        return self.rng.standard_normal(size, dtype=np.float32).astype(float)


@dataclass
class Traffic(_Source):
    """Looks at arms whose shares stay as they are; nobody outside the arms is simulated."""

    _alive: tuple[list[_Generation], list[_Generation]] = field(default_factory=lambda: ([], []))

    def look(self) -> tuple[Events, Events]:
        """Return the events of control and challenger up to the next look."""
        self._common = self._next(self._common, self.replicates)
        shares = self.design.control, self.design.challenger
        rest = max(0.0, 1 - sum(shares))
        split = self.rng.multinomial(self._crowd(), [*shares, rest], self.replicates)
        for arm, alive in enumerate(self._alive):
            alive.append(self._born(split[:, arm]))
        return self._events(self._alive[0]), self._events(self._alive[1])


@dataclass
class Crowd(_Source):
    """Looks at everybody; each unit has a place between 0 and 1, as by its hash, and its arm follows from the design.

    When the design changes units change with it as the product's flag would have it: challenger grows from the left
    edge, control from the right, and a control that shrinks to a holdback gives its units to the challenger.
    """

    _alive: list[_Generation] = field(default_factory=list)

    def look(self) -> tuple[Events, Events]:
        """Return the events of control and challenger up to the next look."""
        self._common = self._next(self._common, self.replicates)
        born = self._born(np.full(self.replicates, self._crowd()))
        born.place = self.rng.random(born.replicate.size)
        self._alive.append(born)
        place = np.concatenate(
            [generation.place for generation in self._alive if generation.place is not None]
        )
        events = self._events(self._alive)
        return tuple(
            Events(events.replicate[arm], events.bucket[arm], events.latent[arm])
            for arm in (place >= 1 - self.design.control, place < self.design.challenger)
        )
