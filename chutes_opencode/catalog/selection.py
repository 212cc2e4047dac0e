"""Which models of a list are wanted, and in what order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from chutes_opencode.catalog.models import Model
from chutes_opencode.catalog.names import bare
from chutes_opencode.errors import ConfigurationError


def matches(model_id: str, wildcards: Sequence[str], provider_id: str) -> bool:
    """Tell whether an id passes wildcards such as `Qwen/*` and `!*-TEE`.

    Case does not count, and `<provider>/` may stand before a wildcard. With only negative ones
    everything else passes; a negative one always wins, wherever it stands. None at all: all pass.

    Args:
        model_id: In the provider's spelling.
        wildcards: Shell wildcards (`*`, `?`, `[…]`); a leading `!` excludes. Blank ones are not
            counted.
        provider_id: The prefix that a wildcard may carry.
    """
    rules = [rule for wildcard in wildcards if (rule := wildcard.strip())]
    unwanted = [rule[1:].strip() for rule in rules if rule.startswith("!")]
    wanted = [rule for rule in rules if not rule.startswith("!")]

    def passes(wildcard: str) -> bool:
        # As it is first: an id may itself begin with the provider's name.
        spellings = (wildcard, bare(provider_id, wildcard))
        return any(fnmatchcase(model_id.lower(), spelling.lower()) for spelling in spellings)

    if any(passes(wildcard) for wildcard in unwanted):
        return False
    return not wanted or any(passes(wildcard) for wildcard in wanted)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a model must be like; a field that is left out asks for nothing.

    A model that does not tell what a limit is about does not meet it.

    Attributes:
        wildcards: See `matches`.
        features: All of them ("tools", "reasoning", …).
        input_modalities: All of them ("image", …).
        max_input_price: USD per million tokens of input, at most.
        max_output_price: USD per million tokens of output, at most.
        min_context: Tokens of context, at least.
        confidential: Only with (True) or only without (False) confidential compute.
        search: Words that all occur in the id or the display name.
    """

    wildcards: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    input_modalities: tuple[str, ...] = ()
    max_input_price: float | None = None
    max_output_price: float | None = None
    min_context: int | None = None
    confidential: bool | None = None
    search: str = ""


def select(models: Iterable[Model], selection: Selection, provider_id: str) -> tuple[Model, ...]:
    """Return the models that are as `selection` asks, in their order."""
    return tuple(model for model in models if _fits(model, selection, provider_id))


def _fits(model: Model, wanted: Selection, provider_id: str) -> bool:
    text = f"{model.id} {model.name or ''}".lower()
    return (
        (wanted.confidential is None or model.confidential_compute is wanted.confidential)
        and _at_most(_input_price(model), wanted.max_input_price)
        and _at_most(_output_price(model), wanted.max_output_price)
        and _at_least(model.context_length, wanted.min_context)
        and _has_all(model.features, wanted.features)
        and _has_all(model.input_modalities, wanted.input_modalities)
        and all(word in text for word in wanted.search.lower().split())
        and matches(model.id, wanted.wildcards, provider_id)
    )


def _input_price(model: Model) -> float | None:
    return model.price.input if model.price else None


def _output_price(model: Model) -> float | None:
    return model.price.output if model.price else None


def _at_most(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)


def _at_least(value: float | None, limit: float | None) -> bool:
    return limit is None or (value is not None and value >= limit)


def _has_all(told: Iterable[str], wanted: Iterable[str]) -> bool:
    return {name.lower() for name in wanted} <= {name.lower() for name in told}


# --- order ---------------------------------------------------------------------------------------

SORT_KEYS: Mapping[str, Callable[[Model], Any]] = {
    "id": lambda model: model.id.lower(),
    "input_price": _input_price,
    "output_price": _output_price,
    "context": lambda model: model.context_length,
    "output": lambda model: model.max_output_length,
}
"""What models can be sorted by; each function returns None where a model does not tell."""


def sort_models(
    models: Iterable[Model], key: str, *, descending: bool = False
) -> tuple[Model, ...]:
    """Return the models in order; those that do not tell come last in both directions.

    Args:
        models: Any order; it decides between equals.
        key: One of `SORT_KEYS`.
        descending: The greatest first.

    Raises:
        ConfigurationError: There is no such key.
    """
    if key not in SORT_KEYS:
        raise ConfigurationError(
            raw_message=f"cannot sort by {key!r}; there are {', '.join(SORT_KEYS)}",
            hint=f"Sort by one of: {', '.join(SORT_KEYS)}.",
        )
    value = SORT_KEYS[key]
    models = tuple(models)
    told = [model for model in models if value(model) is not None]
    untold = [model for model in models if value(model) is None]
    return (*sorted(told, key=value, reverse=descending), *untold)
