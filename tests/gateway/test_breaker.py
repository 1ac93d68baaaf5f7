from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from understudy.gateway.breaker import PROBES, Breaker
from understudy.spec import Breaker as Rules

RULES = Rules(error_rate=0.5, calls=10, rest=30.0)


def call(breaker: Breaker, now: float, kind: str | None = None, seconds: float = 0.01) -> bool | None:
    """Make one call; return whether it opened the breaker, or nothing where it was not let through."""
    ticket = breaker.admit(now)
    if ticket is None:
        return None
    return breaker.succeeded(ticket, now, seconds) if kind is None else breaker.failed(ticket, now, kind)


def opened_at(now: float, rules: Rules = RULES) -> Breaker:
    breaker = Breaker(rules)
    assert [call(breaker, now, "Timeout") for _ in range(rules.calls)][-1] is True
    return breaker


def test_it_opens_at_the_share_of_failures_among_the_last_calls_and_says_why() -> None:
    breaker = Breaker(RULES)
    kinds = [None, "Timeout", None, "ValueError", None, "Timeout", None, None, "Timeout"]
    assert [call(breaker, 0.0, kind) for kind in kinds] == [False] * 9
    assert (breaker.state, breaker.opened, breaker.reason) == ("closed", 0, None)
    assert call(breaker, 0.0, "Timeout") is True
    assert (breaker.state, breaker.opened) == ("open", 1)
    assert breaker.reason == "5 of the last 10 calls failed (Timeout 4, ValueError 1)"


def test_fewer_calls_than_are_judged_open_nothing() -> None:
    breaker = Breaker(RULES)
    assert [call(breaker, 0.0, "Timeout") for _ in range(9)] == [False] * 9
    assert breaker.state == "closed"


def test_failures_that_are_no_longer_among_the_last_calls_are_forgotten() -> None:
    breaker = Breaker(RULES)
    for _ in range(4):
        call(breaker, 0.0, "Timeout")
    for _ in range(10):
        call(breaker, 0.0)
    assert [call(breaker, 0.0, "Timeout") for _ in range(4)] == [False] * 4
    assert call(breaker, 0.0, "Timeout") is True


def test_an_answer_beyond_the_latency_budget_counts_as_failed() -> None:
    rules = Rules(error_rate=1.0, calls=5, latency=0.1, rest=1.0)
    breaker = Breaker(rules)
    assert [call(breaker, 0.0, seconds=0.1) for _ in range(5)] == [False] * 5
    assert [call(breaker, 0.0, seconds=0.11) for _ in range(5)] == [False] * 4 + [True]
    assert breaker.reason == "5 of the last 5 calls failed (Slow 5)"


def test_open_it_lets_nothing_through_until_it_has_rested() -> None:
    breaker = opened_at(100.0)
    assert breaker.admit(100.0) is None
    assert breaker.admit(129.9) is None
    assert breaker.admit(130.0) is not None
    assert breaker.state == "half-open"


def test_half_open_it_lets_single_calls_through_and_closes_when_enough_of_them_succeed() -> None:
    breaker = opened_at(0.0)
    for number in range(PROBES):
        ticket = breaker.admit(30.0)
        assert ticket is not None
        assert breaker.admit(30.0) is None
        assert breaker.reason is not None
        breaker.succeeded(ticket, 30.0, 0.01)
        assert breaker.state == ("closed" if number == PROBES - 1 else "half-open")
    assert breaker.reason is None
    # It starts with a clean slate: one failure is not the eleventh.
    assert call(breaker, 30.0, "Timeout") is False


def test_a_failed_probe_makes_it_rest_again_without_a_second_alarm() -> None:
    breaker = opened_at(0.0)
    assert call(breaker, 30.0) is False
    assert call(breaker, 31.0, "Down") is False
    assert (breaker.state, breaker.opened) == ("open", 1)
    assert breaker.reason == "a call that was to show recovery failed (Down)"
    assert breaker.admit(60.9) is None
    assert breaker.admit(61.0) is not None


def test_a_probe_that_is_given_up_makes_room_for_the_next() -> None:
    breaker = opened_at(0.0)
    ticket = breaker.admit(30.0)
    assert ticket is not None
    breaker.abandoned(ticket)
    assert breaker.state == "half-open"
    assert breaker.admit(30.0) is not None


def test_what_was_asked_before_it_opened_says_nothing_about_recovery() -> None:
    breaker = Breaker(RULES)
    early = [breaker.admit(0.0) for _ in range(3)]
    for _ in range(10):
        call(breaker, 0.0, "Timeout")
    probe = breaker.admit(30.0)
    assert probe is not None
    for ticket in early:
        assert ticket is not None
        assert breaker.succeeded(ticket, 30.0, 0.01) is False
        breaker.abandoned(ticket)
    assert breaker.state == "half-open"
    assert breaker.admit(30.0) is None


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_the_share_is_that_of_the_spec(rate: float) -> None:
    breaker = Breaker(Rules(error_rate=rate, calls=100, rest=1.0))
    for _ in range(100):
        call(breaker, 0.0)
    needed = round(rate * 100)
    assert [call(breaker, 0.0, "Timeout") for _ in range(needed)] == [False] * (needed - 1) + [True]


class Machine(RuleBasedStateMachine):
    """Any order of calls, ends of calls and time, against what the breaker promises."""

    @initialize(
        calls=st.integers(5, 12),
        rate=st.floats(0.05, 1.0),
        rest=st.floats(0.1, 100.0),
        latency=st.none() | st.floats(0.01, 1.0),
    )
    def begin(self, calls: int, rate: float, rest: float, latency: float | None) -> None:
        self.rules = Rules(error_rate=rate, calls=calls, rest=rest, latency=latency)
        self.breaker = Breaker(self.rules)
        self.now = 0.0
        self.tickets: list[tuple[int, str]] = []
        # What the machine knows by itself: ends of calls since the breaker was last closed, and when it opened.
        self.ends: list[bool] = []
        self.opened_at: float | None = None
        self.recovered = 0

    @rule(seconds=st.floats(0.0, 60.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        before = self.breaker.state
        probing = any(state == "half-open" for _, state in self.tickets)
        ticket = self.breaker.admit(self.now)
        rested = self.opened_at is not None and self.now >= self.opened_at + self.rules.rest
        if before == "closed":
            assert ticket is not None
        elif before == "open":
            assert (ticket is not None) is rested
        else:
            assert (ticket is None) is probing
        if ticket is not None:
            self.tickets.append((ticket, self.breaker.state))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), failed=st.booleans(), seconds=st.floats(0.0, 2.0))
    def end(self, data: st.DataObject, failed: bool, seconds: float) -> None:
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        ticket, state = self.tickets.pop(index)
        before, report = self.breaker.state, self.breaker
        opened = (
            report.failed(ticket, self.now, "Timeout")
            if failed
            else report.succeeded(ticket, self.now, seconds)
        )
        bad = failed or (self.rules.latency is not None and seconds > self.rules.latency)
        if state == "before the last opening":
            assert (self.breaker.state, opened) == (before, False)
            return
        assert state == before
        if before == "closed":
            self._judge_closed(bad, opened)
        else:
            assert opened is False
            self._judge_probe(bad)

    def _judge_closed(self, bad: bool, opened: bool) -> None:
        self.ends.append(bad)
        last = self.ends[-self.rules.calls :]
        full = len(self.ends) >= self.rules.calls
        assert opened is (full and sum(last) >= self.rules.error_rate * self.rules.calls)
        if opened:
            self._note_opening()

    def _judge_probe(self, bad: bool) -> None:
        if bad:
            assert self.breaker.state == "open"
            self._note_opening()
            return
        self.recovered += 1
        assert self.breaker.state == ("closed" if self.recovered == PROBES else "half-open")
        if self.breaker.state == "closed":
            self.recovered = 0

    def _note_opening(self) -> None:
        self.opened_at, self.ends, self.recovered = self.now, [], 0
        self.tickets = [(ticket, "before the last opening") for ticket, _ in self.tickets]

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        before = self.breaker.state
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        self.breaker.abandoned(self.tickets.pop(index)[0])
        assert self.breaker.state == before

    @invariant()
    def a_reason_is_there_exactly_while_it_is_not_closed(self) -> None:
        if hasattr(self, "breaker"):
            assert (self.breaker.reason is None) is (self.breaker.state == "closed")


Machine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestMachine = Machine.TestCase
