"""The header `traceparent`, as strict as the W3C recommendation is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from understudy.telemetry import TraceContext, current, parse, trace_id_of, within

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
        (f"fe-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_a_valid_header_is_read(header: str, sampled: bool) -> None:
    assert parse(header) == TraceContext(TRACE, SPAN, sampled)
    assert trace_id_of(header) == TRACE


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        TRACE,
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-011",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"01-{TRACE}-{SPAN}-01more",
        f"ff-{TRACE}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE}-{SPAN}-0A",
        f"0G-{TRACE}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}a-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00_{TRACE}_{SPAN}_01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
    ],
)
def test_a_header_that_breaks_a_rule_counts_as_absent(header: str | None) -> None:
    assert parse(header) is None
    assert trace_id_of(header) is None


@given(
    st.text(alphabet="0123456789abcdefABCDEF-٣ \n", max_size=70)
    | st.from_regex(r"0[0-2]-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-x)?")
)
def test_whatever_stands_in_the_header_is_read_or_ignored(header: str) -> None:
    found = parse(header)
    assert trace_id_of(header) == (found.trace_id if found else None)
    if found is not None:
        assert parse(found.traceparent) == found


def test_new_places_are_valid_and_a_child_stays_in_its_trace() -> None:
    places = [TraceContext.new() for _ in range(200)]
    assert len({place.trace_id for place in places}) == 200
    for place in places:
        assert parse(place.traceparent) == place
        child = TraceContext(place.trace_id, place.span_id, sampled=False).child()
        assert (child.trace_id, child.sampled) == (place.trace_id, False)
        assert child.span_id != place.span_id


def test_opentelemetrys_own_reader_agrees_on_what_is_written() -> None:
    place = TraceContext.new()
    carried = TraceContextTextMapPropagator().extract({"traceparent": place.traceparent})
    theirs = get_current_span(carried).get_span_context()
    assert (f"{theirs.trace_id:032x}", f"{theirs.span_id:016x}") == (place.trace_id, place.span_id)
    assert theirs.trace_flags.sampled


def test_work_elsewhere_is_what_a_block_is_part_of_and_nothing_else_changes() -> None:
    place = TraceContext.new()
    with within(place.traceparent):
        assert current() == place
        with within("not a header"), within(None):
            assert current() == place
    assert current() is None
