"""What changed between two lists, and what a use of a model costs."""

from __future__ import annotations

import pytest

from chutes_opencode.catalog.comparison import (
    Changes,
    PriceMove,
    compare_listings,
    estimate_cost,
)
from chutes_opencode.catalog.models import Model, Price


def models(*ids: str) -> list[Model]:
    return [Model(model_id) for model_id in ids]


# --- changes -------------------------------------------------------------------------------------


def test_the_same_list_in_another_order_has_no_changes() -> None:
    changes = compare_listings(models("a", "b"), models("b", "a"))

    assert changes == Changes()
    assert not changes


def test_what_came_and_what_went() -> None:
    changes = compare_listings(models("a", "b", "c"), models("z", "c", "y"))

    assert changes == Changes(new=("z", "y"), gone=("a", "b"))
    assert changes


@pytest.mark.parametrize(
    ("old", "new", "renamed"),
    [
        (models("x"), models("x-TEE"), (("x", "x-TEE"),)),
        ([Model("x", chute_id="1")], [Model("y", chute_id="1")], (("x", "y"),)),
        pytest.param(
            [Model("x", chute_id="1")],
            [Model("y", chute_id="1"), Model("x-TEE")],
            (("x", "x-TEE"),),
            id="the name counts before the chute",
        ),
        pytest.param(models("x", "x-TEE"), models("x-TEE"), (), id="the other one was there"),
        pytest.param([Model("x")], [Model("y")], (), id="no chute is no chute in common"),
        pytest.param(
            [Model("v", chute_id="1"), Model("w", chute_id="1")],
            [Model("y", chute_id="1")],
            (("v", "y"),),
            id="a new id is given once",
        ),
    ],
)
def test_a_rename_is_no_coming_and_going(
    old: list[Model], new: list[Model], renamed: tuple[tuple[str, str], ...]
) -> None:
    changes = compare_listings(old, new)

    assert changes.renamed == renamed
    assert bool(changes)
    for old_id, new_id in renamed:
        assert old_id not in changes.gone
        assert new_id not in changes.new


@pytest.mark.parametrize(
    ("old", "new", "moved"),
    [
        (Price(1, 2), Price(1, 2), False),
        (Price(0.1 + 0.2, 2), Price(0.3, 2), False),
        (Price(1, 2), Price(1.1, 2), True),
        (Price(1, 2), Price(1, 2.1), True),
        (Price(0, 0), Price(0, 0.01), True),
        (Price(1, 2, 0.5), Price(1, 2, 0.4), True),
        (Price(1, 2), Price(1, 2, 0.4), True),
        (None, Price(1, 2), True),
        (Price(1, 2), None, True),
        (None, None, False),
    ],
)
def test_a_price_that_moved(old: Price | None, new: Price | None, moved: bool) -> None:
    changes = compare_listings([Model("a", price=old)], [Model("a", price=new)])

    assert changes.prices == ((PriceMove("a", old, new),) if moved else ())
    assert bool(changes) is moved


def test_a_renamed_models_price_may_move_too() -> None:
    old, new = Price(1, 2), Price(2, 3)

    changes = compare_listings([Model("a", price=old)], [Model("a-TEE", price=new)])

    assert changes == Changes(renamed=(("a", "a-TEE"),), prices=(PriceMove("a-TEE", old, new),))


# --- costs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("price", "tokens", "usd"),
    [
        (Price(2.0, 8.0), (1_000_000, 0), 2.0),
        (Price(2.0, 8.0), (0, 500_000), 4.0),
        (Price(2.0, 8.0, 0.5), (1_000_000, 0, 1_000_000), 0.5),
        (Price(2.0, 8.0, 0.5), (1_000_000, 100_000, 400_000), 1.2 + 0.2 + 0.8),
        pytest.param(Price(2.0, 8.0), (100, 0, 100), 0.0002, id="cached costs what input does"),
        (Price(2.0, 8.0, 0.0), (100, 0, 100), 0.0),
        (Price(0.0, 0.0), (5, 5), 0.0),
        (None, (5, 5), None),
    ],
)
def test_an_estimate(price: Price | None, tokens: tuple[int, ...], usd: float | None) -> None:
    cost = estimate_cost(Model("m", price=price), *tokens)

    assert cost == (None if usd is None else pytest.approx(usd))


@pytest.mark.parametrize("tokens", [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (5, 0, 6)])
def test_impossible_numbers_are_refused(tokens: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"below zero|more than"):
        estimate_cost(Model("m"), *tokens)
