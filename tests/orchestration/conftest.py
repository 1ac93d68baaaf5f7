from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import pytest

from understudy.verdicts import Outcome, Verdict


class Lifecycle(ModuleType):
    """Stands where ``understudy.lifecycle`` is looked up; answers what a test tells it to and remembers the calls.

    Put an answer, an exception or a list of them (one per call, the last for ever) into ``answers`` under the name of a
    function.
    """

    def __init__(self) -> None:
        super().__init__("understudy.lifecycle")
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[Any, ...]] = []
        self._one_at_a_time = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def function(*args: Any, **kwargs: Any) -> Any:
            with self._one_at_a_time:
                self.calls.append((name, *args, *([kwargs] if kwargs else [])))
                answer = self.answers[name]
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if callable(answer):
                return answer()
            if isinstance(answer, Exception):
                raise answer
            return answer

        return function

    def called(self, name: str) -> int:
        """How often a function was called."""
        return sum(call[0] == name for call in self.calls)


@pytest.fixture
def lifecycle(monkeypatch: pytest.MonkeyPatch) -> Lifecycle:
    from understudy import rollback

    fake = Lifecycle()
    # The watch on the registry asks for rollbacks that wait; there is no store here that could hold one.
    monkeypatch.setattr(rollback, "resume", list)
    fake.registry_watch = fake
    monkeypatch.setitem(sys.modules, "understudy.lifecycle", fake)
    return fake


def look(decision: str, sentence: str = "Seen.") -> dict[str, Any]:
    outcome = {"ADVANCE": Outcome.PASS, "HOLD": Outcome.INCONCLUSIVE}.get(decision, Outcome.FAIL)
    return {
        "decision": decision,
        "sentence": sentence,
        "verdict": Verdict(outcome, "seen", sentence).to_dict(),
    }


@pytest.fixture
def looks() -> Any:
    """Make the answer of ``look`` for a decision."""
    return look
