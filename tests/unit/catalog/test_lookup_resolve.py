"""From a model string to the model that is sent, or to an error that names the nearest."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from chutes_opencode.catalog import lookup as lookups
from chutes_opencode.catalog.lookup import ModelLookup
from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.catalog.sync import RETRY_SECONDS
from chutes_opencode.errors import ModelNotFoundError
from tests.unit.catalog.stage import DOWN, Stage, fetched, filled, run

CHUTES = Provider(
    id="chutes", quirks=frozenset({"saved_aliases", "model_lists", "routing_suffixes"})
)
RENAMING = CHUTES.model_copy(update={"quirks": CHUTES.quirks | {"tee_renames"}})


def resolve(lookup: ModelLookup, asked: str) -> Model:
    return run(lambda: lookup.resolve(asked))


@pytest.mark.parametrize("asked", ["Org/m", "acme/Org/m", " Org/m "])
def test_a_model_is_found_with_or_without_the_prefix(stage: Stage, asked: str) -> None:
    filled(stage, "Org/m")

    assert resolve(stage.lookup(), asked) == Model("Org/m")


def test_an_unknown_model_is_refused_with_the_nearest(stage: Stage) -> None:
    filled(stage, "Org/model-one")

    with pytest.raises(ModelNotFoundError, match="acme/Org/model-one") as caught:
        resolve(stage.lookup(), "Org/model-on")

    assert caught.value.suggestions == ("Org/model-one",)
    assert stage.asked == []


def test_a_model_that_the_filter_hides_is_refused_as_such(stage: Stage) -> None:
    filled(stage, "Org/a", "Other/b")

    with pytest.raises(ModelNotFoundError, match="hidden by model_filter"):
        resolve(stage.lookup(model_filter=("Org/*",)), "Other/b")


def test_a_model_newer_than_the_list_is_found(stage: Stage) -> None:
    filled(stage, "Org/a", age=RETRY_SECONDS + 1)
    stage.answers = [fetched("Org/a", "Org/new")]

    assert resolve(stage.lookup(), "Org/new").id == "Org/new"


def test_a_model_that_does_not_exist_is_asked_for_once_per_list(stage: Stage) -> None:
    filled(stage, "Org/a", age=RETRY_SECONDS + 1)
    lookup = stage.lookup()

    for _ in range(3):
        with pytest.raises(ModelNotFoundError):
            resolve(lookup, "Org/new")

    assert len(stage.asked) == 1


def test_an_unknown_model_is_waited_for_no_longer_than_any_look_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def wait(_fetching: asyncio.Task[bool], seconds: float) -> str:
        waits.append(seconds)
        return "too long"

    filled(stage, "Org/a", age=3601)
    stage.answers = []
    monkeypatch.setattr(lookups, "_wait", wait)
    monkeypatch.setattr(lookups, "time", SimpleNamespace(perf_counter=lambda: sum(waits)))

    with pytest.raises(ModelNotFoundError):
        resolve(stage.lookup(), "Org/new")

    assert waits == [lookups.HOLD_SECONDS, 0.0]


def test_a_model_with_white_space_around_its_id_is_found_by_its_opencode_name(stage: Stage) -> None:
    filled(stage, " odd id ")

    assert resolve(stage.lookup(), "acme/ odd id ").id == " odd id "


@pytest.mark.parametrize("asked", ["Org/m", "chutes/Org/m", "Org/m:latency", "Org/m,Org/other"])
def test_an_old_name_is_sent_with_one_warning_that_names_the_new_one(
    stage: Stage, asked: str
) -> None:
    stage.answers = [fetched("Org/m-TEE", "Org/other")]
    lookup = stage.lookup(RENAMING)

    sent = [resolve(lookup, asked).id for _ in range(2)]

    assert sent == [asked.removeprefix("chutes/")] * 2
    (warning,) = [event for level, event in stage.events if level == "warning"]
    assert "is now chutes/Org/m-TEE" in warning


def test_a_name_of_today_is_no_matter(stage: Stage) -> None:
    stage.answers = [fetched("Org/m-TEE", "Org/m")]

    assert resolve(stage.lookup(RENAMING), "Org/m,Org/m-TEE").id == "Org/m,Org/m-TEE"
    assert "warning" not in [level for level, _ in stage.events]


def test_without_auto_refresh_nothing_is_asked_for_an_unknown_model(stage: Stage) -> None:
    filled(stage, "Org/a", age=RETRY_SECONDS + 1)

    with pytest.raises(ModelNotFoundError):
        resolve(stage.lookup(auto_refresh=False), "Org/new")

    assert stage.asked == []


@pytest.mark.parametrize(
    ("asked", "sent"), [("any/thing", "any/thing"), ("acme/any/thing", "any/thing")]
)
def test_without_a_list_nothing_is_refused(stage: Stage, asked: str, sent: str) -> None:
    stage.answers = [DOWN]
    lookup = stage.lookup()

    assert resolve(lookup, asked) == Model(sent, features=("tools",))
    assert sent in [model.id for model in lookup.known]


def test_without_a_list_a_name_of_nothing_is_refused_all_the_same(stage: Stage) -> None:
    stage.answers = [DOWN]

    with pytest.raises(ModelNotFoundError):
        resolve(stage.lookup(CHUTES), " , ")


def test_a_saved_alias_is_sent_with_one_warning(stage: Stage) -> None:
    stage.answers = [fetched("Org/model-one")]
    lookup = stage.lookup(CHUTES)

    assert [resolve(lookup, "chutes/fast").id, resolve(lookup, "fast").id] == ["fast", "fast"]

    warnings = [event for level, event in stage.events if level == "warning"]
    assert len(warnings) == 1
    assert "extra_models" in warnings[0]
    assert [model.id for model in lookup.known] == ["Org/model-one", "fast"]


def test_an_alias_named_in_extra_models_is_no_matter(stage: Stage) -> None:
    stage.answers = [fetched("Org/model-one")]

    assert resolve(stage.lookup(CHUTES, extra_models=("fast",)), "fast").id == "fast"
    assert "warning" not in [level for level, _ in stage.events]
