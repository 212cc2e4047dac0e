"""What changed between two lists of models, and what a use of a model costs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.names import TEE_SUFFIX


@dataclass(frozen=True, slots=True)
class PriceMove:
    """A model whose price is another one.

    Attributes:
        id: The model, by its new id where it was renamed.
        old: The price before; None: it was not told.
        new: The price now; None: it is no longer told.
    """

    id: str
    old: Price | None
    new: Price | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What is different in a newer list; false when nothing is.

    Attributes:
        new: Ids that came.
        gone: Ids that went.
        renamed: Old and new id of models that go by another name; not in `new` and `gone`.
        prices: Models whose price moved.
    """

    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    prices: tuple[PriceMove, ...] = ()

    def __bool__(self) -> bool:
        """Tell whether anything changed."""
        return bool(self.new or self.gone or self.renamed or self.prices)


def compare_listings(old: Iterable[Model], new: Iterable[Model]) -> Changes:
    """Compare two lists of one provider.

    A model that went counts as renamed when one came that is called `<old id>-TEE` or has the same
    `chute_id`.

    Args:
        old: The earlier list.
        new: The later list.

    Returns:
        The changes, each part in the order of its list.
    """
    before = {model.id: model for model in old}
    after = {model.id: model for model in new}
    gone = {model_id: model for model_id, model in before.items() if model_id not in after}
    came = {model_id: model for model_id, model in after.items() if model_id not in before}
    renamed = _renamed(gone, came)
    new_ids = set(renamed.values())
    pairs = [(before[model_id], after[model_id]) for model_id in before if model_id in after]
    pairs += [(gone[old_id], came[new_id]) for old_id, new_id in renamed.items()]
    return Changes(
        new=tuple(model_id for model_id in came if model_id not in new_ids),
        gone=tuple(model_id for model_id in gone if model_id not in renamed),
        renamed=tuple(renamed.items()),
        prices=tuple(
            PriceMove(later.id, earlier.price, later.price)
            for earlier, later in pairs
            if not _same_price(earlier.price, later.price)
        ),
    )


def _renamed(gone: Mapping[str, Model], came: Mapping[str, Model]) -> dict[str, str]:
    """Return the new id of each model that has one; no new id is given twice."""
    by_chute = {model.chute_id: model.id for model in came.values() if model.chute_id}
    found: dict[str, str] = {}
    for old_id, model in gone.items():
        candidates = (old_id + TEE_SUFFIX, by_chute.get(model.chute_id or "", ""))
        new_id = next((name for name in candidates if name in came), None)
        if new_id is not None and new_id not in found.values():
            found[old_id] = new_id
    return found


def _same_price(old: Price | None, new: Price | None) -> bool:
    if old is None or new is None:
        return old is new
    return all(
        a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
        for a, b in (
            (old.input, new.input),
            (old.output, new.output),
            (old.cache_read, new.cache_read),
        )
    )


def estimate_cost(
    model: Model, input_tokens: int, output_tokens: int, cached_tokens: int = 0
) -> float | None:
    """Return what a use of a model costs in USD; None where its price is unknown.

    Args:
        model: As the provider lists it.
        input_tokens: Tokens of input, cached ones included.
        output_tokens: Tokens of output, reasoning included.
        cached_tokens: How many of the input tokens come from the provider's cache.

    Raises:
        ValueError: A number is below zero, or more is cached than goes in.
    """
    if min(input_tokens, output_tokens, cached_tokens) < 0:
        raise ValueError("a number of tokens is not below zero")
    if cached_tokens > input_tokens:
        raise ValueError(f"{cached_tokens} cached tokens are more than {input_tokens} of input")
    price = model.price
    if price is None:
        return None
    cache_read = price.input if price.cache_read is None else price.cache_read
    fresh = (input_tokens - cached_tokens) * price.input
    return (fresh + cached_tokens * cache_read + output_tokens * price.output) / 1e6
