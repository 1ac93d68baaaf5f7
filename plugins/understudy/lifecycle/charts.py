"""The pictures of a report, drawn as SVG so that the page needs no script and no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.stats.cells import ALL
from understudy.store.records import RecordedVerdict

__all__ = ["harm_over_time", "offline_and_online", "past_runs"]

_WIDTH, _HEIGHT, _POINTS = 640, 240, 300
_HARM, _CALM = "#b3261e", "#1f5f8b"


def harm_over_time(looks: Sequence[RecordedVerdict], metric: str, margin: float | None = None) -> str:
    """Draw the harm of one metric with its confidence sequence over time, stage by stage.

    Args:
        looks: Every look of the guard, in order.
        metric: The metric.
        margin: Largest tolerated harm, drawn as a line; None draws none.

    Returns:
        SVG text; empty when no look had an interval.
    """
    rows = [
        {
            "seconds": item.at - looks[0].at,
            "stage": f"stage {item.stage}",
            "harm": part.evidence["estimate"],
            "lower": part.evidence["lower"],
            "upper": part.evidence["upper"],
        }
        for item in _thinned(looks)
        for part in item.verdict.parts
        if part.metric == metric and part.cohort == ALL and part.evidence.get("determined")
    ]
    if not rows:
        return ""
    import altair as alt
    import pandas as pd

    unit, seconds = _unit_of_time(rows[-1]["seconds"])
    frame = pd.DataFrame(rows)
    frame["time"] = frame["seconds"] / seconds
    base = alt.Chart(frame).encode(x=alt.X("time:Q", title=f"{unit} since the first look"))
    scale = _readable(rows[len(rows) // 4 :])
    title = f"harm in {metric} (below 0: better)"
    band = base.mark_area(opacity=0.25, color=_CALM, clip=True).encode(
        y=alt.Y("lower:Q", title=title, scale=scale), y2="upper:Q"
    )
    line = base.mark_line(color=_CALM, point=True, clip=True).encode(y=alt.Y("harm:Q", scale=scale))
    begun = frame.groupby("stage", sort=False, as_index=False)["time"].min()
    stages = alt.Chart(begun).encode(x="time:Q")
    marks = [
        stages.mark_rule(color="#8a8a8a", strokeDash=[2, 3]),
        stages.mark_text(align="left", dx=3, color="#5f5f66", fontSize=10).encode(
            text="stage:N", y=alt.value(8)
        ),
    ]
    return _svg(alt.layer(band, line, *_levels("y", margin), *marks).properties(width=_WIDTH, height=_HEIGHT))


def _thinned(looks: Sequence[RecordedVerdict]) -> list[RecordedVerdict]:
    """Keep as many looks as a picture can show, evenly and always with the last."""
    step = math.ceil(len(looks) / _POINTS) or 1
    return list(looks[::-1][::step])[::-1]


def _levels(axis: str, margin: float | None) -> list[Any]:
    """Draw no harm as a thin line and, where there is one, the margin as a dashed red one."""
    import altair as alt
    import pandas as pd

    zero = alt.Chart(pd.DataFrame({"level": [0.0]})).mark_rule(color="#5f5f66").encode(**{axis: "level:Q"})
    if margin is None:
        return [zero]
    limit = alt.Chart(pd.DataFrame({"level": [margin]})).mark_rule(color=_HARM, strokeDash=[4, 4], clip=True)
    return [zero, limit.encode(**{axis: "level:Q"})]


def _unit_of_time(seconds: float) -> tuple[str, float]:
    for name, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds > 3 * size:
            return name, size
    return "seconds", 1.0


def offline_and_online(forecast: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw the offline forecast beside the online result, by cohort.

    Returns:
        SVG text; empty when there is nothing to compare.
    """
    rows = [
        {
            "cohort": cohort,
            "where": where,
            "harm": row[where],
            "lower": row[f"{where}_lower"],
            "upper": row[f"{where}_upper"],
        }
        for cohort, row in forecast.items()
        for where in ("offline", "online")
        if row[where] is not None and row[f"{where}_lower"] is not None
    ]
    if not rows:
        return ""
    import altair as alt
    import pandas as pd

    order = list(forecast)
    colour = alt.Color(
        "where:N", title=None, scale=alt.Scale(domain=["offline", "online"], range=["#8a8a8a", _CALM])
    )
    base = alt.Chart(pd.DataFrame(rows)).encode(
        y=alt.Y("cohort:N", sort=order, title=None), yOffset=alt.YOffset("where:N"), color=colour
    )
    scale = _readable(rows)
    title = "harm of the primary (below 0: better)"
    bars = base.mark_rule(clip=True).encode(x=alt.X("lower:Q", title=title, scale=scale), x2="upper:Q")
    points = base.mark_point(filled=True, size=45, clip=True).encode(x=alt.X("harm:Q", scale=scale))
    return _svg(alt.layer(bars, points, *_levels("x", None)).properties(width=_WIDTH))


def past_runs(transfer: Mapping[str, Any]) -> str:
    """Draw offline against online harm of the model's finished runs, with the line through them where there is one.

    Args:
        transfer: `understudy.stats.transfer.Transfer.to_dict()`.

    Returns:
        SVG text; empty without a finished run.
    """
    points = transfer.get("points") or []
    if not points:
        return ""
    import altair as alt
    import pandas as pd

    names = ("offline", "offline_se", "online", "online_se")
    frame = pd.DataFrame([dict(zip(names, point, strict=True)) for point in points])
    for side in ("offline", "online"):
        frame[f"{side}_lower"] = frame[side] - 2 * frame[f"{side}_se"]
        frame[f"{side}_upper"] = frame[side] + 2 * frame[f"{side}_se"]
    base = alt.Chart(frame)
    x, y = alt.X("offline:Q", title="offline harm"), alt.Y("online:Q", title="online harm")
    layers = [
        base.mark_rule(color="#8a8a8a").encode(x=x, y="online_lower:Q", y2="online_upper:Q"),
        base.mark_rule(color="#8a8a8a").encode(y=y, x="offline_lower:Q", x2="offline_upper:Q"),
        base.mark_point(filled=True, size=50, color=_CALM).encode(x=x, y=y),
    ]
    line = transfer.get("line")
    if line:
        ends = [frame["offline"].min(), frame["offline"].max()]
        drawn = pd.DataFrame(
            {"offline": ends, "online": [line["intercept"] + line["slope"] * end for end in ends]}
        )
        layers.append(alt.Chart(drawn).mark_line(color=_HARM).encode(x="offline:Q", y="online:Q"))
    return _svg(alt.layer(*layers).properties(width=_WIDTH // 2, height=_HEIGHT))


def _readable(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return a scale that shows the intervals that say something; the others run out of the picture."""
    import altair as alt

    widths = sorted(max(abs(row["lower"]), abs(row["upper"])) for row in rows)
    edge = 1.1 * widths[(2 * len(widths)) // 3]
    return alt.Scale(domain=[-edge, edge], nice=True)


def _svg(chart: Any) -> str:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart.to_json()))
