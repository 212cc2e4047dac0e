"""What may be sent for a model string that is in no list, or is there under another name."""

from __future__ import annotations

import pytest

from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.providers import Provider
from chutes_opencode.catalog.resolution import as_sent, find_offered, saved_alias

PLAIN = Provider(id="acme")
CHUTES = Provider(id="chutes", quirks=frozenset({"saved_aliases", "model_lists"}))
QWEN = Model("Qwen/Qwen3-32B", 40960)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("chutes/Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("mine", "mine"),
        ("chutes/mine", "mine"),
        ("mine,Qwen/Qwen3-32B", "mine,Qwen/Qwen3-32B"),
    ],
)
def test_names_named_by_hand_are_offered_like_those_of_the_list(asked: str, sent: str) -> None:
    found = find_offered(asked, [QWEN], ["mine"], CHUTES)

    assert found is not None
    assert found.id == sent


def test_the_list_knows_more_than_the_hand() -> None:
    assert find_offered("Qwen/Qwen3-32B", [QWEN], ["chutes/Qwen/Qwen3-32B"], CHUTES) == QWEN


def test_what_is_nowhere_is_not_found() -> None:
    assert find_offered("other/x", [QWEN], ["mine"], CHUTES) is None


def test_of_what_was_named_by_hand_tools_are_not_denied() -> None:
    found = find_offered("mine", [], ["mine"], CHUTES)

    assert found == Model("mine", features=("tools",))


@pytest.mark.parametrize(
    ("asked", "alias"),
    [
        ("my-best", "my-best"),
        (" chutes/my-best ", "my-best"),
        ("maker/my-best", None),
        ("my-best:latency", None),
        ("my-best,other", None),
        ("", None),
        (",", None),
        pytest.param("Qwen3-32b", None, id="like a model's name: mistyped"),
    ],
)
def test_what_is_like_no_model_may_be_an_alias(asked: str, alias: str | None) -> None:
    assert saved_alias(asked, [QWEN], CHUTES) == alias


def test_only_some_providers_save_aliases() -> None:
    assert saved_alias("my-best", [QWEN], PLAIN) is None


@pytest.mark.parametrize(
    ("asked", "provider", "sent"),
    [
        (" chutes/a , chutes/b ,, c/d:latency", CHUTES, "a,b,c/d:latency"),
        ("acme/a,acme/b", PLAIN, "a,acme/b"),
        ("acme/acme/x", PLAIN, "acme/x"),
        ("plain", PLAIN, "plain"),
    ],
)
def test_prefix_and_white_space_are_not_sent(asked: str, provider: Provider, sent: str) -> None:
    assert as_sent(asked, provider) == sent
