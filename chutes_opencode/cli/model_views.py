"""How models, their changes and their costs are shown. Pure: values in, cells and lines out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from chutes_opencode.catalog.names import qualified
from chutes_opencode.cli.tables import Column

if TYPE_CHECKING:
    from chutes_opencode.catalog.comparison import Changes
    from chutes_opencode.catalog.models import Model, Price

UNKNOWN = "-"
PRICE_DECIMALS = 9  # what providers tell is no more exact; the rest is noise of their arithmetic


def money(amount: float | None, *, decimals: int = 4) -> str:
    """Return dollars with two decimals, more where they are needed; `-` where unknown."""
    if amount is None:
        return UNKNOWN
    text = f"{amount:.{decimals}f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"{whole}.{cents.ljust(2, '0')}"


def amounts(values: Sequence[float | None], *, decimals: int = 4) -> list[str]:
    """Return dollars for a column: with as many decimals as one of them needs, two at least."""
    places = max((len(money(v, decimals=decimals).partition(".")[2]) for v in values), default=0)
    return [UNKNOWN if value is None else f"{value:.{places}f}" for value in values]


def count(number: float | None) -> str:
    """Return a whole number with its thousands apart."""
    return UNKNOWN if number is None else f"{number:,.0f}"


def words(values: Iterable[str]) -> str:
    """Return a list in one cell, in an order that does not change from row to row."""
    return ", ".join(values) or UNKNOWN


def yes(value: bool) -> str:
    """Return a truth in a word."""
    return "yes" if value else "no"


def model_columns(models: Sequence[Model], provider_id: str) -> list[Column]:
    """Return the table of `models list`."""
    return [
        Column("model", [qualified(provider_id, model.id) for model in models]),
        Column("in $/M", _prices(models, "input"), right=True),
        Column("out $/M", _prices(models, "output"), right=True),
        Column("cached $/M", _prices(models, "cache_read"), right=True, rank=3),
        Column("context", [count(model.context_length) for model in models], right=True, rank=1),
        Column("output", [count(model.max_output_length) for model in models], right=True, rank=4),
        Column("features", [words(sorted(model.features)) for model in models], rank=2),
        Column("takes", [words(model.input_modalities) for model in models], rank=5),
        Column("quantization", [model.quantization or UNKNOWN for model in models], rank=7),
        Column("confidential", [yes(model.confidential_compute) for model in models], rank=6),
    ]


def _prices(models: Sequence[Model], part: str) -> list[str]:
    return amounts([getattr(model.price, part, None) for model in models])


def model_details(model: Model, provider_id: str) -> list[tuple[str, str]]:
    """Return what is known of one model, a line each."""
    return [
        *((column.heading, column.cells[0]) for column in model_columns([model], provider_id)),
        ("id", model.id),
        ("name", model.name or UNKNOWN),
        ("gives", words(model.output_modalities)),
        ("sampling", words(sorted(model.sampling_parameters))),
        ("chute", model.chute_id or UNKNOWN),
    ]


def comparison_columns(models: Sequence[Model], provider_id: str) -> list[Column]:
    """Return models side by side: what is looked at goes down, the models go across."""
    names, *aspects = model_columns(models, provider_id)
    known = [aspect for aspect in aspects if set(aspect.cells) != {UNKNOWN}]
    columns = [Column("", [aspect.heading for aspect in known])]
    for number, name in enumerate(names.cells):
        columns.append(Column(name, [aspect.cells[number] for aspect in known]))
    return columns


def estimate_columns(
    costs: Sequence[tuple[Model, float | None]], provider_id: str, tokens: int
) -> list[Column]:
    """Return the table of `models estimate`.

    Args:
        costs: Each model with its cost in USD.
        provider_id: The provider's id.
        tokens: Input and output together, which must fit the context.
    """
    return [
        Column("model", [qualified(provider_id, model.id) for model, _ in costs]),
        Column("USD", amounts([cost for _, cost in costs], decimals=6), right=True),
        Column("note", [_note(model, cost, tokens) for model, cost in costs]),
    ]


def _note(model: Model, cost: float | None, tokens: int) -> str:
    if model.context_length is not None and tokens > model.context_length:
        return f"does not fit: its context is {count(model.context_length)} tokens"
    return "price unknown" if cost is None else ""


def change_lines(changes: Changes, provider_id: str) -> list[str]:
    """Return each change in a line of its own."""
    return [
        *(f"new      {qualified(provider_id, name)}" for name in changes.new),
        *(f"gone     {qualified(provider_id, name)}" for name in changes.gone),
        *(
            f"renamed  {qualified(provider_id, old)} → {qualified(provider_id, new)}"
            for old, new in changes.renamed
        ),
        *(
            f"price    {qualified(provider_id, move.id)}: {_both(move.old)} → {_both(move.new)}"
            for move in changes.prices
        ),
    ]


def _both(price: Price | None) -> str:
    if price is None:
        return "unknown"
    cached = "" if price.cache_read is None else f", cached {money(price.cache_read)}"
    return f"in {money(price.input)}, out {money(price.output)}{cached}"


def change_fields(changes: Changes) -> dict[str, Any]:
    """Return changes as JSON has them."""
    return {
        "new": list(changes.new),
        "gone": list(changes.gone),
        "renamed": [{"from": old, "to": new} for old, new in changes.renamed],
        "prices": [
            {"id": move.id, "from": price_fields(move.old), "to": price_fields(move.new)}
            for move in changes.prices
        ],
    }


def price_fields(price: Price | None) -> dict[str, float | None] | None:
    """Return a price as JSON has it, USD per million tokens."""
    if price is None:
        return None
    parts = asdict(price).items()
    return {name: None if usd is None else round(usd, PRICE_DECIMALS) for name, usd in parts}


def model_fields(model: Model, provider_id: str) -> dict[str, Any]:
    """Return a model as JSON has it."""
    fields = {**asdict(model), "price": price_fields(model.price)}
    name = {"id": fields.pop("id"), "opencode_id": qualified(provider_id, model.id)}
    return {**name, **fields}
