"""A model, and the tolerant reading of a provider's `GET /models` rows. Pure.

Rows vary over time and between providers: fields are missing, null, or numbers written as strings.
A row that cannot be read is reported and skipped; it never costs the others.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Model strings may carry a routing suffix (chutes: `id:latency`).
ROUTING_SUFFIXES = (":latency", ":throughput")


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cache_read: float | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the provider lists it; None where it does not tell.

    Attributes:
        id: In the provider's spelling.
        context_length: Tokens of input and output together.
        max_output_length: Largest number of output tokens.
        price: What it costs.
        input_modalities: "text", "image", "video", …; ("text",) where untold.
        features: "tools", "reasoning", "json_mode", …
        confidential_compute: Whether it runs in a trusted execution environment.
        extra: Every further field, as it came.
    """

    id: str
    context_length: int | None = None
    max_output_length: int | None = None
    price: Price | None = None
    input_modalities: tuple[str, ...] = ("text",)
    features: tuple[str, ...] = ()
    confidential_compute: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


_KNOWN = frozenset(
    {"id", "context_length", "max_model_len", "max_output_length", "pricing", "input_modalities"}
    | {"supported_features", "confidential_compute"}
)


def parse_models(envelope: Any) -> tuple[tuple[Model, ...], tuple[str, ...]]:
    """Read the body of `GET /models`.

    Args:
        envelope: The decoded JSON: `{"data": [row, …]}`, or the bare list.

    Returns:
        The models in their order, first of duplicates kept, and a sentence per row that was
        skipped.

    Raises:
        ValueError: There is no list of rows at all.
    """
    rows = envelope.get("data") if isinstance(envelope, Mapping) else envelope
    if not isinstance(rows, list):
        raise ValueError("the answer holds no list of models")
    models: dict[str, Model] = {}
    problems: list[str] = []
    for number, row in enumerate(rows):
        identifier = row.get("id") if isinstance(row, Mapping) else None
        if isinstance(identifier, str) and identifier.strip():
            models.setdefault(identifier, parse_row(row))
        else:
            problems.append(f"row {number} has no id and was skipped")
    return tuple(models.values()), tuple(problems)


def parse_row(row: Mapping[str, Any]) -> Model:
    """Read one row that has an id; whatever else it lacks stays None or empty."""
    return Model(
        id=row["id"],
        context_length=_positive(row.get("context_length")) or _positive(row.get("max_model_len")),
        max_output_length=_positive(row.get("max_output_length")),
        price=_price(row.get("pricing")),
        input_modalities=_strings(row.get("input_modalities")) or ("text",),
        features=_strings(row.get("supported_features")),
        confidential_compute=row.get("confidential_compute") is True,
        extra={key: value for key, value in row.items() if key not in _KNOWN},
    )


def same_model(asked: str, models: Iterable[Model]) -> Model | None:
    """Find the model that a string names, routing suffix and old name (`X` for `X-TEE`) included.

    Of a comma list (server-side failover) the first member is looked up.
    """
    by_id = {model.id: model for model in models}
    for name in (asked, *_spellings(asked)):
        if name in by_id:
            return by_id[name]
    return None


def _spellings(asked: str) -> tuple[str, ...]:
    first = asked.split(",")[0].strip()
    for suffix in ROUTING_SUFFIXES:
        first = first.removesuffix(suffix)
    return (first, f"{first}-TEE")


def nearest(asked: str, models: Iterable[Model], *, count: int = 3) -> tuple[str, ...]:
    """Return the ids most like `asked`, best first; the maker's part counts less than the name."""
    ids: dict[str, list[str]] = {}
    for model in models:
        ids.setdefault(_name(model.id), []).append(model.id)
    close = difflib.get_close_matches(_name(asked), ids, n=count, cutoff=0.5)
    return tuple(identifier for name in close for identifier in ids[name])[:count]


def _name(identifier: str) -> str:
    return identifier.rsplit("/", 1)[-1].lower()


def _positive(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number >= 1 else None


def _number(value: Any) -> float | None:
    """Return a finite number, also one that is written as a string."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _price(pricing: Any) -> Price | None:
    if not isinstance(pricing, Mapping):
        return None
    prompt, completion = _number(pricing.get("prompt")), _number(pricing.get("completion"))
    # Below zero: some providers write -1 for "it depends".
    if prompt is None or completion is None or min(prompt, completion) < 0:
        return None
    return Price(prompt, completion, _number(pricing.get("input_cache_read")))


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(item for item in value if isinstance(item, str))
