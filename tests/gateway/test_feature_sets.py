"""A version that names another feature set than the flag document has for it is refused, and nobody is left without an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, Registered, logged, row, split
from tests.gateway.watched import RUN, Play, Watched, player
from tests.servers import RunningGateway, wait_until
from understudy.exposure import Exposure, publish
from understudy.registry import FEATURE_SET_TAG

NAMED = replace(RUN, feature_set="hours", challenger_feature_set="hours and wind")
FITTING: dict[str, str | None] = {"1": "hours", "2": "hours and wind"}


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return player(tmp_path)


def test_versions_that_name_what_the_document_has_for_them_are_used(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = dict(FITTING)
        await watched.follows(NAMED)
        assert (watched.served, watched.follower.feature_set_error) == (NAMED, None)

    play(scene)


def test_where_the_document_names_no_set_the_registry_is_not_asked(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = {"1": "anything"}
        watched.pool.registry_down = True
        await watched.follows(RUN)
        assert (watched.percent, watched.follower.feature_set_error) == (5.0, None)

    play(scene)


@pytest.mark.parametrize("wrong", [{"2": "years"}, {"2": None}, {"1": "years"}, {"1": None}])
@pytest.mark.parametrize(
    "wanted",
    [
        NAMED,
        replace(NAMED, percent=0.0, lease_expires_at=None, mirror=True),
        replace(NAMED, percent=0.0, lease_expires_at=None),
    ],
    ids=["exposed", "mirrored", "standing by"],
)
def test_nobody_is_exposed_while_a_version_names_another_set_and_it_is_said_once(
    wrong: dict[str, str | None], wanted: Exposure, play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = FITTING | wrong
        await watched.follows(wanted)
        assert watched.served == wanted.ended()
        assert f"Version {next(iter(wrong))} of delay names" in watched.error
        await watched.looks()
        said = [record for record in caplog.records if "[FEATURE_SET_MISMATCH]" in record.message]
        assert [record.levelno for record in said] == [logging.ERROR]
        # The tag is put back: the registry is asked again after a while, and the same generation goes on.
        watched.pool.sets = dict(FITTING)
        await watched.looks()
        assert watched.percent == 0.0
        watched.passes(2)
        await watched.looks()
        assert (watched.served, watched.error) == (wanted, "")

    play(scene)


def test_nobody_is_exposed_before_the_registry_has_answered(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = dict(FITTING)
        watched.pool.registry_answers.clear()
        publish(watched.path, [NAMED])
        watched.follower.step()
        while (
            len(asyncio.all_tasks()) > 3
        ):  # this one and two questions; the exposure has been remembered then
            await asyncio.sleep(0.001)
        watched.follower.step()
        assert (watched.percent, watched.follower.loading) == (0.0, NAMED.generation)
        watched.pool.registry_answers.set()
        await watched.looks()
        assert watched.percent == 5.0

    play(scene)


def test_a_new_champion_that_names_another_set_is_not_switched_to_and_the_old_one_goes_on(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = {"1": "hours", "3": "years"}
        await watched.follows(Exposure(MODEL, 7, "1", feature_set="hours"))
        await watched.follows(Exposure(MODEL, 8, "3", feature_set="hours"))
        assert watched.served == Exposure(MODEL, 7, "1", feature_set="hours")
        assert "Version 3 of delay names feature set 'years'" in str(watched.follower.waiting_for)
        assert watched.follower.loading is None
        # A rollback that points at the set of the version is followed in one step.
        await watched.follows(Exposure(MODEL, 9, "3", feature_set="years"))
        assert watched.served == Exposure(MODEL, 9, "3", feature_set="years")

    play(scene)


def test_an_exposure_ends_at_once_although_the_new_champion_is_refused(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = FITTING | {"3": "years"}
        await watched.follows(NAMED)
        assert watched.percent == 5.0
        await watched.follows(Exposure(MODEL, 8, "3", feature_set="hours"))
        assert (watched.percent, watched.served and watched.served.champion) == (0.0, "1")

    play(scene)


def test_the_champion_that_is_served_goes_on_whatever_its_tag_says_by_now(play: Play) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = {"1": "hours"}
        await watched.follows(Exposure(MODEL, 7, "1", feature_set="hours"))
        await watched.follows(Exposure(MODEL, 8, "1", feature_set="years"))
        assert watched.served == Exposure(MODEL, 8, "1", feature_set="years")
        assert "Version 1 of delay names feature set 'hours'" in str(watched.follower.feature_set_error)
        # So does the first one of a process: a wrong tag is no reason to answer nobody.
        watched.restart()
        await watched.looks()
        assert watched.served == Exposure(MODEL, 8, "1", feature_set="years")

    play(scene)


def test_without_the_registry_nobody_is_exposed_to_a_version_that_was_never_asked_and_champions_are_followed(
    play: Play,
) -> None:
    async def scene(watched: Watched) -> None:
        watched.pool.sets = dict(FITTING)
        watched.pool.registry_down = True
        await watched.follows(Exposure(MODEL, 7, "1", feature_set="hours"))
        await watched.follows(Exposure(MODEL, 8, "2", feature_set="hours and wind"))
        assert watched.served == Exposure(MODEL, 8, "2", feature_set="hours and wind")
        await watched.follows(replace(NAMED, generation=9))
        assert watched.percent == 0.0
        assert "Nobody knows which feature set version" in watched.error
        watched.pool.registry_down = False
        watched.passes(2)
        await watched.looks()
        assert watched.percent == 5.0
        # What was found out once holds while the registry is away.
        watched.pool.registry_down = True
        await watched.follows(replace(NAMED, generation=10, percent=25.0))
        assert watched.percent == 25.0

    play(scene)


# --- a real gateway


@pytest.fixture
def tag(registered: Registered) -> Iterator[Callable[[str, str], None]]:
    """Return a function that has a version name a feature set; afterwards none names any."""
    import mlflow

    client = mlflow.MlflowClient(registered.uri)
    named: set[str] = set()

    def name(version: str, feature_set: str) -> None:
        named.add(version)
        client.set_model_version_tag(MODEL, version, FEATURE_SET_TAG, feature_set)

    yield name
    for version in named:
        client.delete_model_version_tag(MODEL, version, FEATURE_SET_TAG)


def answer(gateway: RunningGateway, **changes: Any) -> Any:
    return gateway.client.post("/invocations", json=split([row(1, **changes)]))


UNFIT = {
    "text for a number": ({"distance": "1200.5"}, "column distance is text in row 0, and must be double"),
    "a fraction for a whole number": ({"hour": 6.5}, "column hour is a number in row 0, and must be long"),
    "a number for text": ({"origin": 3}, "column origin is a number in row 0, and must be string"),
    "a truth value for a number": ({"distance": True}, "column distance is a truth value in row 0"),
    "a list for a number": ({"hour": [7]}, "column hour is a list in row 0, and must be long"),
}


def test_requests_are_held_against_the_feature_set_and_the_column_is_named(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered, tag: Callable[..., None]
) -> None:
    tag(registered.good, "departures")
    assert answer(gateway, distance="1200.5").status_code == 200  # nothing is declared yet
    expose(feature_set="departures")
    before = len(logged(gateway))
    for changes, said in UNFIT.values():
        refused = answer(gateway, **changes)
        assert (refused.status_code, refused.json()["error_code"]) == (400, "BAD_REQUEST")
        assert f"feature set 'departures': {said}" in refused.json()["message"]
        assert "1200.5" not in refused.text
    short = {name: value for name, value in row(1).items() if name != "hour"}
    for body in (
        split([short]),
        {"dataframe_records": [short]},
        {"inputs": {name: [value] for name, value in short.items()}},
    ):
        refused = gateway.client.post("/invocations", json=body)
        assert (refused.status_code, "column hour is missing" in refused.text) == (400, True)
    assert len(logged(gateway)) == before
    # What fits is answered, on the quick way and on the other one, and CSV has no types of its own.
    assert answer(gateway).status_code == answer(gateway, hour=7.0).status_code == 200
    assert answer(gateway, wind="is no column of the set").status_code == 200
    csv = "tailnum,origin,distance,hour\nN1,JFK,1200.5,7\n"
    headers = {"content-type": "text/csv"}
    assert gateway.client.post("/invocations", content=csv, headers=headers).status_code == 200
    csv = "tailnum,origin,distance\nN1,JFK,1200.5\n"
    assert gateway.client.post("/invocations", content=csv, headers=headers).status_code == 400


def test_a_changed_tag_ends_no_answer_but_nobody_is_exposed_and_status_metrics_and_log_say_so(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered, tag: Callable[..., None]
) -> None:
    tag(registered.good, "departures")
    tag(registered.better, "arrivals")
    exposure = expose(
        wait=False,
        challenger=registered.better,
        percent=50.0,
        feature_set="departures",
        challenger_feature_set="departures",
    )
    said = f"Version {registered.better} of {MODEL} names feature set 'arrivals'"
    wait_until(lambda: said in str(gateway.status()["feature_set_error"]), "the mismatch in /status")
    gateway.wait_for_generation(exposure.generation)
    assert answer(gateway).headers["x-understudy-version"] == registered.good
    status = gateway.status()
    assert (status["exposed"], status["feature_set"]) == (False, "departures")
    assert said in status["document_error"]
    assert "understudy_feature_set_error 1.0" in gateway.client.get("/metrics").text
    tag(registered.better, "departures")
    wait_until(lambda: gateway.status()["exposed"], "exposure with the tag put back")
    assert gateway.status()["generation"] == exposure.generation
    # The champion of the next generation names another set: the present one goes on until the pointer is right.
    tag(registered.better, "arrivals")
    refused = expose(wait=False, champion=registered.better, feature_set="departures")
    wait_until(lambda: said in str(gateway.status()["waiting_for"]), "the refusal in /status")
    assert answer(gateway).headers["x-understudy-version"] == registered.good
    expose(generation=refused.generation + 1, champion=registered.better, feature_set="arrivals")
    status = gateway.status()
    assert (status["champion"], status["feature_set"], status["feature_set_error"]) == (
        registered.better, "arrivals", None,
    )  # fmt: skip
    assert "'arrivals': column hour" in answer(gateway, hour="late").text
