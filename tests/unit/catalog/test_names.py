"""What a model string means, and what is said of one that means nothing."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.names import (
    bare,
    combine,
    find,
    nearest,
    qualified,
    renamed,
    unknown_model,
)
from chutes_opencode.catalog.quirks import Quirk
from chutes_opencode.errors import ModelNotFoundError

ALL: frozenset[Quirk] = frozenset(get_args(Quirk))
NONE: frozenset[Quirk] = frozenset()

LISTED = [
    Model(name)
    for name in (
        *("Qwen/Qwen3-32B-TEE", "zai-org/GLM-5.1-TEE", "no-slash", "one/two/three/four"),
        *("a,b", "c:latency", "d", "d:latency", "chutes/own", "e-TEE", "e"),
    )
]


def found(asked: str, quirks: frozenset[Quirk] = ALL) -> str | None:
    model = find(asked, LISTED, provider_id="chutes", quirks=quirks)
    return model.id if model else None


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("Qwen/Qwen3-32B-TEE", "chutes/Qwen/Qwen3-32B-TEE"),
        ("no-slash", "chutes/no-slash"),
        ("chutes/own", "chutes/chutes/own"),
        ("chutes", "chutes/chutes"),
    ],
)
def test_one_prefix_is_put_on_and_one_taken_off(model_id: str, name: str) -> None:
    assert qualified("chutes", model_id) == name
    assert bare("chutes", name) == model_id


def test_a_name_without_the_prefix_is_left_alone() -> None:
    assert bare("chutes", "Qwen/x") == "Qwen/x"
    assert bare("chutes", "chutes-of/x") == "chutes-of/x"


# --- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("Qwen/Qwen3-32B-TEE", "Qwen/Qwen3-32B-TEE"),
        ("chutes/Qwen/Qwen3-32B-TEE", "Qwen/Qwen3-32B-TEE"),
        (" chutes/no-slash\n", "no-slash"),
        ("chutes/one/two/three/four", "one/two/three/four"),
        pytest.param("Qwen/Qwen3-32B", "Qwen/Qwen3-32B", id="its old name is sent as it is"),
        ("chutes/Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("Qwen/Qwen3-32B-TEE:latency", "Qwen/Qwen3-32B-TEE:latency"),
        ("chutes/Qwen/Qwen3-32B:throughput", "Qwen/Qwen3-32B:throughput"),
        pytest.param("a,b", "a,b", id="a comma that is part of the id"),
        ("chutes/a,b", "a,b"),
        ("a,b:latency", "a,b:latency"),
        pytest.param("c:latency", "c:latency", id="a suffix that is part of the id"),
        ("d:latency", "d:latency"),
        ("chutes/own", "chutes/own"),
        ("chutes/chutes/own", "chutes/own"),
        ("Qwen/Qwen3-32B-TEE:fast", None),
        ("Qwen/Qwen3-32B-TEE:latency:latency", None),
        ("qwen/qwen3-32b-tee", None),
        ("chutes/", None),
        ("", None),
    ],
)
def test_a_string_names_a_model(asked: str, sent: str | None) -> None:
    assert found(asked) == sent


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("d,no-slash", "d,no-slash"),
        (" chutes/d , chutes/no-slash ", "d,no-slash"),
        ("d:throughput,Qwen/Qwen3-32B", "d:throughput,Qwen/Qwen3-32B"),
        ("d,,no-slash,", "d,no-slash"),
        ("d,", "d"),
        ("d,unknown", None),
        (",", None),
        ("a,b,d", None),
    ],
)
def test_a_list_names_its_members(asked: str, sent: str | None) -> None:
    assert found(asked) == sent


@pytest.mark.parametrize("asked", ["d:throughput", "d,no-slash", "Qwen/Qwen3-32B", "d,"])
def test_what_a_provider_does_not_understand_names_nothing(asked: str) -> None:
    assert found(asked, NONE) is None
    assert found("chutes/c:latency", NONE) == "c:latency"


@pytest.mark.parametrize(
    ("quirk", "asked", "refused"),
    [
        ("routing_suffixes", "d:throughput", "Qwen/Qwen3-32B"),
        ("model_lists", "d,no-slash", "d:throughput"),
        ("tee_renames", "Qwen/Qwen3-32B", "d:throughput"),
        ("tee_renames", "e", "Qwen/Qwen3-32B:latency"),
    ],
)
def test_each_reading_is_a_quirk_of_its_own(quirk: Quirk, asked: str, refused: str) -> None:
    assert found(asked, frozenset({quirk})) == asked
    assert found(refused, frozenset({quirk})) is None


def test_the_model_behind_another_spelling_keeps_its_data() -> None:
    model = Model("x-TEE", 40960, price=Price(0.1, 0.4), features=("tools",))

    spelled = find("chutes/x:latency", [model], provider_id="chutes", quirks=ALL)

    assert spelled == Model("x:latency", 40960, price=Price(0.1, 0.4), features=("tools",))


parts = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=6)
ids = st.lists(
    parts | st.sampled_from(["chutes", ":latency", ":throughput", ",", ":", "-TEE", "x"]),
    min_size=1,
    max_size=5,
).flatmap(lambda pieces: st.sampled_from(["/", "", ",", ":"]).map(lambda glue: glue.join(pieces)))


@given(ids)
@example("chutes/chutes/x")
@example("chutes/")
@example("a/b/c/d")
@example("a,b:latency")
@example("chutes/a,chutes/b")
def test_every_id_comes_back_from_its_name(model_id: str) -> None:
    assert bare("chutes", qualified("chutes", model_id)) == model_id
    model = Model(model_id)
    for quirks in (ALL, NONE):
        assert find(model_id, [model], provider_id="chutes", quirks=quirks) == model
        name = qualified("chutes", model_id)
        assert find(name, [model], provider_id="chutes", quirks=quirks) == model


@given(st.lists(ids, max_size=5), st.data())
def test_every_id_of_a_list_comes_back_whatever_else_is_listed(
    listed: list[str], data: st.DataObject
) -> None:
    assume(listed)
    models = [Model(model_id) for model_id in dict.fromkeys(listed)]
    wanted = data.draw(st.sampled_from(models))

    assert find(wanted.id, models, provider_id="chutes", quirks=ALL) == wanted
    # Unless the name is an id itself: then that one is meant.
    meant = qualified("chutes", wanted.id)
    expected = next((model for model in models if model.id == meant), wanted)
    assert find(meant, models, provider_id="chutes", quirks=ALL) == expected


# --- a list as one model -------------------------------------------------------------------------

BIG = Model(
    "big",
    200_000,
    64_000,
    Price(1.0, 2.0, 0.5),
    ("text", "image", "video"),
    ("tools", "reasoning"),
    confidential_compute=True,
    quantization="fp8",
    sampling_parameters=("top_p", "seed"),
    chute_id="big-chute",
    extra={"owned_by": "vllm"},
)
SMALL = Model(
    "small",
    8_000,
    None,
    Price(0.1, 3.0, 0.1),
    ("image", "text"),
    ("reasoning",),
    confidential_compute=False,
    quantization="fp8",
    sampling_parameters=("seed",),
)


def test_a_list_can_do_what_all_its_members_can() -> None:
    assert combine([BIG, SMALL]) == Model(
        "big,small",
        8_000,
        64_000,
        Price(1.0, 3.0, 0.5),
        ("text", "image"),
        ("reasoning",),
        confidential_compute=False,
        quantization="fp8",
        sampling_parameters=("seed",),
    )


def test_a_list_that_tells_nothing_promises_nothing() -> None:
    combined = combine([Model("x"), Model("y", quantization="int4")])

    assert combined == Model("x,y")


def test_a_list_of_confidential_models_is_confidential() -> None:
    assert combine([BIG, BIG]).confidential_compute is True


def test_a_list_of_one_is_that_one() -> None:
    assert combine([BIG]) is BIG


@pytest.mark.parametrize(
    ("prices", "dearest"),
    [
        ((Price(1, 2, 0.5), Price(2, 1, 0.7)), Price(2, 2, 0.7)),
        pytest.param(
            (Price(1, 2, 0.5), Price(2, 1)), Price(2, 2), id="cached costs what input does"
        ),
        pytest.param((Price(1, 2), None), None, id="one is unknown"),
        ((None, None), None),
    ],
)
def test_a_list_costs_what_its_dearest_member_costs(
    prices: tuple[Price | None, ...], dearest: Price | None
) -> None:
    members = [Model(str(number), price=price) for number, price in enumerate(prices)]

    assert combine(members).price == dearest


# --- suggestions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "best"),
    [
        ("Qwen/Qwen3-32B-TE", "Qwen/Qwen3-32B-TEE"),
        ("qwen3-32b", "Qwen/Qwen3-32B-TEE"),
        ("qwen/qwen3-32b-tee", "Qwen/Qwen3-32B-TEE"),
        ("other/GLM-5.1:throughput", "zai-org/GLM-5.1-TEE"),
        ("chutes/noslash", "no-slash"),
    ],
)
def test_the_nearest_ids_are_suggested(asked: str, best: str) -> None:
    assert nearest(asked, LISTED)[0] == best


def test_nothing_is_suggested_for_nonsense() -> None:
    assert nearest("zzzzzzzzzz", LISTED) == ()
    assert nearest("x", []) == ()


def test_of_models_of_one_name_the_nearer_maker_comes_first() -> None:
    twins = [Model("one/GLM-5"), Model("two/GLM-5")]

    assert nearest("two/GLM-5x", twins) == ("two/GLM-5", "one/GLM-5")
    assert nearest("one/GLM-5x", twins, count=1) == ("one/GLM-5",)


@pytest.mark.parametrize(
    ("asked", "new_id"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B-TEE"),
        ("Qwen/Qwen3-32B:latency", "Qwen/Qwen3-32B-TEE"),
        ("Qwen/Qwen3-32B-TEE", None),
        pytest.param("e", None, id="both names exist"),
        ("unknown", None),
    ],
)
def test_a_renamed_model_is_recognised(asked: str, new_id: str | None) -> None:
    assert renamed(asked, LISTED) == new_id


# --- the error -----------------------------------------------------------------------------------


def error(
    asked: str, quirks: frozenset[Quirk] = NONE, hidden: list[Model] | None = None
) -> ModelNotFoundError:
    return unknown_model(asked, LISTED, provider_id="chutes", quirks=quirks, hidden=hidden or ())


def test_the_error_names_the_nearest_as_opencode_does() -> None:
    told = error("chutes/Qwen/Qwen3-32")

    assert told.raw_message == (
        "unknown model 'chutes/Qwen/Qwen3-32'; nearest: chutes/Qwen/Qwen3-32B-TEE"
    )
    assert told.suggestions == ("Qwen/Qwen3-32B-TEE",)
    assert told.hint == "Did you mean chutes/Qwen/Qwen3-32B-TEE?"
    assert told.model == "chutes/Qwen/Qwen3-32"


def test_the_error_names_a_rename_as_such() -> None:
    told = error("chutes/Qwen/Qwen3-32B:latency")

    assert told.raw_message == (
        "model 'chutes/Qwen/Qwen3-32B:latency' is now chutes/Qwen/Qwen3-32B-TEE"
    )
    assert told.suggestions == ("Qwen/Qwen3-32B-TEE",)
    assert told.hint == "Ask for chutes/Qwen/Qwen3-32B-TEE."


def test_the_error_says_that_a_filter_hides_the_model() -> None:
    told = error("chutes/some/Hidden:latency", ALL, hidden=[Model("some/Hidden")])

    assert told.raw_message == "model 'chutes/some/Hidden:latency' is hidden by model_filter"
    assert "model_filter" in told.hint


def test_without_anything_near_the_error_says_where_the_list_is() -> None:
    told = error("zzzzzzzzzz")

    assert (told.raw_message, told.suggestions) == ("unknown model 'zzzzzzzzzz'", ())
    assert told.hint == "`chutes-opencode models list` shows what there is."


@pytest.mark.parametrize(
    ("asked", "quirks", "mentioned"),
    [("zzzzzzzzzz", ALL, True), ("maker/zzzzzzzzzz", ALL, False), ("zzzzzzzzzz", NONE, False)],
)
def test_where_aliases_can_be_saved_the_error_tells_of_extra_models(
    asked: str, quirks: frozenset[Quirk], mentioned: bool
) -> None:
    assert ("extra_models" in error(asked, quirks).hint) is mentioned


@pytest.mark.parametrize(
    ("quirks", "blamed"), [(ALL, "Qwen/Qwen3-32"), (NONE, "no-slash,Qwen/Qwen3-32,zzz")]
)
def test_of_a_list_the_first_unknown_member_is_blamed(
    quirks: frozenset[Quirk], blamed: str
) -> None:
    told = error("no-slash,Qwen/Qwen3-32,zzz", quirks)

    assert told.raw_message.startswith(f"unknown model {blamed!r}")
    assert told.model == "no-slash,Qwen/Qwen3-32,zzz"
