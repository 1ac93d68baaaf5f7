"""The pictures of a report, drawn as SVG so that the page needs no script and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.stats.cells import ALL
from understudy.store.records import RecordedVerdict

__all__ = ["harm_over_time", "offline_and_online"]

_WIDTH, _HEIGHT = 640, 240
_HARM, _CALM = "#b3261e", "#1f5f8b"


def harm_over_time(looks: Sequence[RecordedVerdict], metric: str) -> str:
    """Draw the harm of one metric with its interval, look by look.

    Returns:
        SVG text; empty when no look had an interval.
    """
    rows = [
        {
            "look": number,
            "harm": part.evidence["estimate"],
            "lower": part.evidence["lower"],
            "upper": part.evidence["upper"],
        }
        for number, item in enumerate(looks, 1)
        for part in item.verdict.parts
        if part.metric == metric and part.cohort == ALL and part.evidence.get("determined")
    ]
    if not rows:
        return ""
    import altair as alt
    import pandas as pd

    base = alt.Chart(pd.DataFrame(rows)).encode(x=alt.X("look:Q", title="look", axis=alt.Axis(tickMinStep=1)))
    scale = _readable(rows[len(rows) // 4 :])
    title = f"harm in {metric} (below 0: better)"
    band = base.mark_area(opacity=0.25, color=_CALM, clip=True).encode(
        y=alt.Y("lower:Q", title=title, scale=scale), y2="upper:Q"
    )
    line = base.mark_line(color=_CALM, point=True, clip=True).encode(y=alt.Y("harm:Q", scale=scale))
    zero = (
        alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=_HARM, strokeDash=[4, 4]).encode(y="zero:Q")
    )
    return _svg(alt.layer(band, line, zero).properties(width=_WIDTH, height=_HEIGHT))


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
    zero = (
        alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=_HARM, strokeDash=[4, 4]).encode(x="zero:Q")
    )
    return _svg(alt.layer(bars, points, zero).properties(width=_WIDTH))


def _readable(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return a scale that shows the intervals that say something; the others run out of the picture."""
    import altair as alt

    widths = sorted(max(abs(row["lower"]), abs(row["upper"])) for row in rows)
    edge = 1.1 * widths[(2 * len(widths)) // 3]
    return alt.Scale(domain=[-edge, edge], nice=True)


def _svg(chart: Any) -> str:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart.to_json()))
