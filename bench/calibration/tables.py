"""The sections of the report, each a function from results to Markdown lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bench.calibration.distributions import DISTRIBUTIONS
from bench.calibration.means import ALPHA
from bench.calibration.rates import Rate
from bench.calibration.runner import Result
from bench.calibration.traffic import STRUCTURES, Design

__all__ = ["SECTIONS", "detected", "promised", "verdict"]

_ONE_METRIC = ("harm", "gain", "two")
_NAMES = {d.name: d.label for d in DISTRIBUTIONS} | {s.name: s.label for s in STRUCTURES}
_WORST = ("holds", "open", "FAILS")

# What the formulas gave when they were chosen; "found" in per cent, "median" in units per arm.
_TARGETS = {
    1.0: {"one": (67, 14_215), "two": (56, 17_920)},
    1.5: {"one": (96, 6_875), "two": (93, 8_335)},
    2.0: {"one": (99.9, 4_300), "two": (99.8, 5_050)},
    4.0: {"one": (100, 1_580), "two": (100, 1_720)},
    10.0: {"one": (100, 520), "two": (100, 540)},
}
_PRICE = {0.05: 1_726, 0.01: 2_145, 0.005: 2_330, 0.001: 2_770, 0.05 / 80: 2_913}
_RUNS_FOR_A_THOUSANDTH = 10_000
_ALLOWED = 2.0
_PEEKING = {5: 14.2, 10: 19.3, 50: 32.0, 100: 37.4}


def promised(result: Result) -> dict[str, float]:
    """Return which of a result's counts are false alarms of the product, and the budget of each."""
    one_metric = (*_ONE_METRIC, "quiet") if _is_rate(result) else _ONE_METRIC
    kinds: dict[str, dict[str, float]] = {
        "grid": dict.fromkeys(one_metric, ALPHA),
        "unequal": dict.fromkeys(one_metric, ALPHA),
        "ramp": dict.fromkeys(_ONE_METRIC, ALPHA),
        "ratio": dict.fromkeys(_ONE_METRIC, ALPHA),
        "policy": {"divided": ALPHA, "e-BH": ALPHA},
        "split": {} if result.settings.get("share") != 0.5 else {f"sequential|{alpha:g}": alpha for alpha in _splits(result)},
        "rare": {} if result.settings.get("times") != 1 else {"one": ALPHA, "two": ALPHA},
        "adjusted": {} if result.settings.get("times") else {f"adjusted_{kind}": ALPHA for kind in _ONE_METRIC},
        "tail": {} if result.settings.get("slowdown") != 1 else {"share_harm": ALPHA, "share_two": ALPHA, "sequence_two": ALPHA},
    }  # fmt: skip
    return kinds.get(result.section, {})


def _is_rate(result: Result) -> bool:
    return str(result.settings.get("distribution", "")).startswith("bernoulli")


def verdict(result: Result) -> str:
    """Return the worst verdict over a result's promises; empty if it has none."""
    found = [result.rate(kind).verdict(alpha) for kind, alpha in promised(result).items()]
    return max(found, key=_WORST.index) if found else ""


def _grid(found: Sequence[Result]) -> list[str]:
    lines = [
        "2,016 looks (every five minutes for a week), ten events per arm and look, from the first look on. Control is as",
        "large as the challenger. A repeating unit brings five events, half of the latent variance is its own;",
        "autocorrelated values follow an autoregression with lag-1 correlation 0.3 within the unit, and a tenth of the",
        'variance is an hour that everybody shares, with the same autocorrelation. "Nothing yet": the bound on a rate that',
        "has been zero so far excluded the true rate.",
        "",
    ]
    heads = [
        "distribution",
        "exposure",
        "harm",
        "gain",
        "two-sided",
        "nothing yet",
        "verdict",
        "t every look",
        "t, 14 looks",
        "t once",
    ]
    for structure in STRUCTURES:
        part = [r for r in found if r.settings["structure"] == structure.name]
        rows = [
            [_NAMES[r.settings["distribution"]], f"{r.settings['design'][1]:g} %",
             *(_exact(r.rate(kind)) for kind in _ONE_METRIC), _share(r.rate("quiet")) if _is_rate(r) else "", verdict(r),
             *(_share(r.rate(kind)) for kind in ("t_every", "t_14", "t_once"))]
            for r in part
        ]  # fmt: skip
        lines += [f"### {structure.label[0].upper()}{structure.label[1:]}", "", *_table(heads, rows), ""]
    return lines


def _unequal(found: Sequence[Result]) -> list[str]:
    heads = ["distribution", "structure", "split", "harm", "gain", "two-sided", "verdict",
             "Welch alone: harm", "Welch alone: gain", "t once"]  # fmt: skip
    rows = []
    for r in found:
        kind, percent = r.settings["design"]
        design = Design.staged(percent) if kind == "staged" else Design.against_the_rest(percent)
        rows.append(
            [_NAMES[r.settings["distribution"]] + (", challenger's sd doubled" if "spread" in r.settings else ""),
             _NAMES[r.settings["structure"]], design.label,
             *(_exact(r.rate(k)) for k in _ONE_METRIC), verdict(r),
             *(_share(r.rate(k)) for k in ("welch_harm", "welch_gain", "t_once"))]
        )  # fmt: skip
    words = [
        "400 looks, five events of the smaller arm per look. The product makes control smaller than the challenger only",
        "past 50 %, where it is a holdback; the other splits are what it never does, and must survive all the same.",
        "",
    ]
    return [*words, *_table(heads, rows)]


def _ramp(found: Sequence[Result]) -> list[str]:
    heads = ["distribution", "ramp", "harm", "gain", "two-sided", "verdict", "t once", "sequence, stages pooled",
             "t once, stages pooled"]  # fmt: skip
    rows = [
        [_NAMES[r.settings["distribution"]], r.name.split(", ", 1)[1], *(_exact(r.rate(k)) for k in _ONE_METRIC),
         verdict(r), *(_share(r.rate(k)) for k in ("t_once", "pooled_two", "pooled_t_once"))]
        for r in found
    ]  # fmt: skip
    words = [
        "Everybody's values rise from stage to stage, in both arms alike; 30 looks in each stage, units repeat and are",
        "autocorrelated, and units that are about when exposure changes are seen in both stages.",
        "",
    ]
    return [*words, *_table(heads, rows)]


def detected(found: Sequence[Result]) -> dict[tuple[float, str], str]:
    """Return "reached", "formula reached", by how much not, or "SLOWER", for each size of harm and form."""
    formula = {r.settings["times"]: r for r in found if r.section == "formula"}
    return {
        (times, form): _slower(
            r, f"{form}|{r.settings['n_stars'][0]:g}|{ALPHA:g}", *target, formula[times], form
        )
        for r in found
        if r.section == "detection"
        for times in (r.settings["times"],)
        for form, target in _TARGETS[times].items()
    }


def _detection(found: Sequence[Result]) -> list[str]:
    heads = ["harm", "form", "found", "target", "bare formula", "median stop", "target", "bare formula", "verdict",
             "found, product's tuning", "median stop, product's tuning"]  # fmt: skip
    formula = {r.settings["times"]: r for r in found if r.section == "formula"}
    verdicts, rows = detected(found), []
    for r in (r for r in found if r.section == "detection"):
        times, (half, tenth) = r.settings["times"], r.settings["n_stars"]
        for form in ("one", "two"):
            mine, own = f"{form}|{half:g}|{ALPHA:g}", f"{form}|{tenth:g}|{ALPHA:g}"
            share, median = _TARGETS[times][form]
            rows.append(
                [f"{times:g}x", f"{form}-sided", _exact(r.rate(mine)), f"{share:g} %", _share(formula[times].rate(form)),
                 _stop(r, mine), f"{median:,}", _stop(formula[times], form), verdicts[times, form],
                 _share(r.rate(own)), _stop(r, own)]
            )  # fmt: skip
    words = [
        "1x is the effect that one final t test with 20,160 units per arm finds with 80 %. Stops are units per arm. The",
        "targets were measured with the sequence tuned to half of all events; the product tunes to a tenth of them, which",
        'finds large harm sooner and small harm a little less often. "Bare formula" is the target\'s sequence with the variance',
        "known and the arms exactly equal, over 20,000 paths: it tells how much of a target was luck. The verdict is about",
        'like and like, the target\'s tuning. "reached": the 95 % intervals of the share found and of the median stop contain',
        'the target or are better; "formula reached": the same for the bare formula. Otherwise it says by how much it is',
        "later or finds fewer than the easier of the two: judging by 256 buckets in place of units widens an interval by",
        "about one per cent. More than 2 % later or 2 points fewer, beyond the 95 % intervals of both, is called SLOWER,",
        "and a failure.",
        "",
    ]
    return [*words, *_table(heads, rows)]


def _slower(r: Result, kind: str, share: float, median: float, bare: Result, form: str) -> str:
    stop, other = r.stops[kind], bare.stops[form]
    never = float("inf")
    high, low = r.rate(kind).high, _or(stop["low"], never)
    if 100 * high >= share and low <= median:
        return "reached"
    if high >= bare.rate(form).low and low <= _or(other["high"], never):
        return "formula reached"
    later = _or(stop["median"], never) / max(median, _or(other["median"], never)) - 1
    fewer = min(share, 100 * bare.rate(form).point) - 100 * r.rate(kind).point
    surely_later = low / max(median, _or(other["high"], never)) - 1
    surely_fewer = min(share, 100 * bare.rate(form).low) - 100 * high
    if surely_later > _ALLOWED / 100 or surely_fewer > _ALLOWED:
        return "SLOWER"
    words = [f"{later:.1%} later"] if later > 0 else []
    return ", ".join([*words, f"{fewer:.2f} points fewer"] if fewer > 0 else words)


def _price(found: Sequence[Result]) -> list[str]:
    r = found[0]
    rows = []
    for alpha in r.settings["alphas"]:
        row = [f"{alpha:g}", f"{_PRICE[alpha]:,}"]
        for n_star in r.settings["n_stars"]:
            mean = _or(r.stops[f"one|{n_star:g}|{alpha:g}"]["mean"], float("nan"))
            row += [f"{mean:,.0f}", f"{mean / _PRICE[alpha] - 1:+.1%}"]
        rows.append(row)
    heads = ["alpha", "target", "target's tuning", "difference", "product's tuning", "difference"]
    words = (
        "A 4x effect, one-sided; mean stop in units per arm. Buckets cost a little more the smaller alpha is."
    )
    return [words, "", *_table(heads, rows)]


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _policy(found: Sequence[Result]) -> list[str]:
    r = found[0]
    rows = [
        ["alpha divided as the policy does", _exact(r.rate("divided")), r.rate("divided").verdict(ALPHA)],
        ["... of these about everyone", _exact(r.rate("everyone")), ""],
        ["... of these in a cohort", _exact(r.rate("cohorts")), ""],
        ["e-BH over cohorts and metrics", _exact(r.rate("e-BH")), r.rate("e-BH").verdict(ALPHA)],
        ["the whole alpha for each cell (contrast)", _exact(r.rate("undivided")), ""],
    ]  # fmt: skip
    words = f"{r.settings['looks']} looks at 84 cells: runs of a harmless challenger with any alarm at all."
    return [words, "", *_table(["rule", "runs with an alarm", "verdict"], rows)]


def _split(found: Sequence[Result]) -> list[str]:
    shifted = next(r for r in found if r.settings["share"] != 0.5)
    rows = [
        [f"{alpha:g}", f"{null.settings['looks']:,}", _exact(null.rate(f"sequential|{alpha:g}")),
         null.rate(f"sequential|{alpha:g}").verdict(alpha), _share(null.rate(f"chi-square|{alpha:g}")),
         _stop(shifted, f"sequential|{alpha:g}")]
        for null in found
        for alpha in _splits(null)
        if null.settings["share"] == 0.5
    ]  # fmt: skip
    heads = [
        "alpha",
        "looks",
        "sequential test",
        "verdict",
        "chi-square at every look",
        "51 to 49 found after (units)",
    ]
    words = "Up to 40,000 units. Targets: 2.8-3.3 % at 0.05; 51 to 49 found at 0.001 after 45,100 units."
    return [words, "", *_table(heads, rows)]


def _splits(result: Result) -> tuple[float, ...]:
    """Return the levels that a result has enough runs to tell about."""
    return (0.05, 0.001) if result.runs >= _RUNS_FOR_A_THOUSANDTH else (0.05,)


def _rare(found: Sequence[Result]) -> list[str]:
    null, worse = found
    rows = [
        [f"{form}-sided", _exact(null.rate(form)), null.rate(form).verdict(ALPHA), _stop(worse, form)] for form in ("one", "two")
    ]  # fmt: skip
    words = "One error in 1,000 requests, counted, at 2,016 looks. Target: 0.9 %."
    return [
        words,
        "",
        *_table(["form", "false alarms", "verdict", "three times as many found after (requests)"], rows),
    ]


def _adjusted(found: Sequence[Result]) -> list[str]:
    null, harmed = found
    rows = [
        [name, *(_exact(null.rate(f"{name}_{kind}")) for kind in _ONE_METRIC), _stop(harmed, f"{name}_harm")]
        for name in ("adjusted", "plain")
    ]
    words = [
        f"History known for nine units in ten, correlation 0.8; it takes away {null.averages['variance_reduction']:.0%} of",
        f"the variance. 400 looks. Target: 2.1 % two-sided. Verdict: {verdict(null)}.",
        "",
    ]
    return [
        *words,
        *_table(["metric", "harm", "gain", "two-sided", "harm of 2x found after (units per arm)"], rows),
    ]


def _ratio(found: Sequence[Result]) -> list[str]:
    rows = [
        [r.name, *(_exact(r.rate(kind)) for kind in _ONE_METRIC), verdict(r), _share(r.rate("t_every"))]
        for r in found
    ]
    words = "Busy units spend more per session, so sessions are not independent. 2,016 looks. Target: 1.9 % two-sided."
    return [words, "", *_table(["metric", "harm", "gain", "two-sided", "verdict", "t every look"], rows)]


def _tail(found: Sequence[Result]) -> list[str]:
    null, slow = found
    labels = {
        "share_two": "share of slow requests, two-sided", "share_harm": "share of slow requests, one-sided",
        "sequence_two": "order statistics with the sequence's multiplier", "plain_two": "order statistics as they are (contrast)",
    }  # fmt: skip
    rows = [
        [
            label,
            _exact(null.rate(kind)),
            "" if kind == "plain_two" else null.rate(kind).verdict(ALPHA),
            _stop(slow, kind),
        ]
        for kind, label in labels.items()
    ]
    words = "The 99th percentile of lognormal latencies, 40 looks, up to 20,000 requests per arm. Targets: 1.4, 0.9 and 26 %."
    return [
        words,
        "",
        *_table(["rule", "false alarms", "verdict", "10 % slower found after (requests per arm)"], rows),
    ]


def _simulator(found: Sequence[Result]) -> list[str]:
    rows = [
        [str(looks), _exact(r.rate("t_every")), f"{_PEEKING[looks]} %"]
        for r in found
        for looks in (int(r.settings["looks"]),)
    ]
    words = "Does the simulator itself tell the truth? A t test at every look against Armitage, McPherson and Rowe (1969)."
    return [words, "", *_table(["looks", "measured", "published"], rows)]


SECTIONS: dict[str, tuple[str, Callable[[Sequence[Result]], list[str]]]] = {
    "grid": ("No effect, equal arms", _grid),
    "unequal": ("No effect, unequal arms", _unequal),
    "ramp": ("No effect, growing exposure in a drifting world", _ramp),
    "policy": ("No effect, a whole experiment", _policy),
    "adjusted": ("Metrics with their history taken away (CUPED)", _adjusted),
    "ratio": ("Ratios and sums per unit", _ratio),
    "tail": ("The slow tail", _tail),
    "rare": ("Rare events", _rare),
    "split": ("Split of units", _split),
    "detection": ("How soon harm is found", _detection),
    "price": ("What dividing alpha costs", _price),
    "simulator": ("The simulator", _simulator),
}
"""Key of each part of the report, with its title and its function; "detection" also gets the results of "formula"."""


def _exact(rate: Rate) -> str:
    return f"{100 * rate.point:.3g} % ({100 * rate.low:.3g}-{100 * rate.high:.3g})"


def _share(rate: Rate) -> str:
    return f"{100 * rate.point:.3g} %"


def _stop(result: Result, kind: str) -> str:
    stop = result.stops[kind]
    if stop["median"] is None:
        return "rarely"
    high = f"{stop['high']:,.0f}" if stop["high"] is not None else "never"
    return f"{stop['median']:,.0f} ({stop['low'] or 0:,.0f}-{high})"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    return [
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
