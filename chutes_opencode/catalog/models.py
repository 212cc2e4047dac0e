"""A model, and the tolerant reading of a provider's `GET /models` rows. Pure.

Rows vary over time and between providers: fields are missing, null, or numbers written as strings,
and the same thing has several names. A row that cannot be read is reported and skipped; it never
costs the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from chutes_opencode.catalog.quirks import Quirk

# A server that sends rubbish by the thousand is told of in a few lines.
SHOWN_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens.

    Attributes:
        input: For input that is not cached.
        output: For output, reasoning included.
        cache_read: For cached input; None where untold (then it costs what input costs).
    """

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
        features: "tools", "reasoning", "json_mode", "structured_outputs", …
        confidential_compute: Whether it runs in a trusted execution environment.
        extra: Every field of the row that no attribute holds whole, as it came.
        name: Display name.
        output_modalities: Like `input_modalities`.
        sampling_parameters: "temperature", "top_p", …; empty where untold.
        quantization: "fp8", "int4", …
        chute_id: What Chutes' management API calls it.
    """

    id: str
    context_length: int | None = None
    max_output_length: int | None = None
    price: Price | None = None
    input_modalities: tuple[str, ...] = ("text",)
    features: tuple[str, ...] = ()
    confidential_compute: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    output_modalities: tuple[str, ...] = ("text",)
    sampling_parameters: tuple[str, ...] = ()
    quantization: str | None = None
    chute_id: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a model list says.

    Attributes:
        models: The models in their order; duplicates are merged.
        rows: The rows that were kept, as they came: parsed again they give the same models.
        problems: A sentence per row that was skipped; of many only the first few, then a count.
    """

    models: tuple[Model, ...]
    rows: tuple[dict[str, Any], ...]
    problems: tuple[str, ...] = ()


def parse_models(envelope: Any, *, quirks: frozenset[Quirk] = frozenset()) -> Parsed:
    """Read the body of `GET /models`.

    Args:
        envelope: The decoded JSON: `{"data": [row, …]}`, `{"models": [row, …]}` or the bare list.
        quirks: The provider's; "price_per_token" is the one that matters here.

    Returns:
        The models. Of rows with the same id the first one that tells a field is believed.

    Raises:
        ValueError: There is no list of rows at all.
    """
    told: dict[str, dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    skipped: list[int] = []
    for number, row in enumerate(_row_list(envelope)):
        identifier = _identifier(row) if isinstance(row, dict) else None
        if identifier is None:
            skipped.append(number)
            continue
        rows.append(row)
        fields = _fields(row, quirks)
        known = told.setdefault(identifier, fields)
        if known is not fields:
            extra = {**fields["extra"], **known["extra"]}
            told[identifier] = {**fields, **known, "extra": extra}
    models = tuple(Model(identifier, **fields) for identifier, fields in told.items())
    return Parsed(models, tuple(rows), _problems(skipped))


def _row_list(envelope: Any) -> list[Any]:
    if isinstance(envelope, list):
        return envelope
    if isinstance(envelope, Mapping):
        # llama.cpp sends both, "data" being the fuller one.
        for key in ("data", "models"):
            if isinstance(envelope.get(key), list):
                rows: list[Any] = envelope[key]
                return rows
    raise ValueError("the answer holds no list of models")


def _problems(skipped: list[int]) -> tuple[str, ...]:
    shown = [f"row {number} has no usable id and was skipped" for number in skipped]
    further = len(shown) - SHOWN_PROBLEMS
    if further <= 0:
        return tuple(shown)
    return (*shown[:SHOWN_PROBLEMS], f"{further} more rows were skipped for the same reason")


# --- one row -------------------------------------------------------------------------------------

_CONTEXT_KEYS = (
    # An engine's limit (`max_model_len`) can exceed what is offered, so it comes after the offer.
    *("context_length", "max_model_len", "context_window", "max_context_length"),
    *("inputTokenLimit", "max_input_tokens"),
)
_OUTPUT_KEYS = (
    *("max_output_length", "max_completion_tokens", "max_output_tokens"),
    *("outputTokenLimit", "max_tokens"),
)
# A request parameter that is supported tells of a feature (OpenRouter).
_PARAMETER_FEATURES = {
    "tools": "tools",
    "tool_choice": "tools",
    "reasoning": "reasoning",
    "include_reasoning": "reasoning",
    "structured_outputs": "structured_outputs",
    "response_format": "json_mode",
}
_FEATURE_FLAGS = {"supports_reasoning": "reasoning", "thinking": "reasoning"}  # Kimi, Google
_INPUT_FLAGS = {"supports_image_in": "image", "supports_video_in": "video"}  # Kimi
# Anthropic: `capabilities: {name: {"supported": bool}}`.
_CAPABILITY_FEATURES = {"thinking": "reasoning", "structured_outputs": "structured_outputs"}
_CAPABILITY_INPUTS = {"image_input": "image", "pdf_input": "pdf"}
# What an attribute of Model holds whole; all else stays in `extra`.
_HELD = frozenset(
    {"id", "context_length", "max_output_length", "input_modalities", "output_modalities"}
    | {"supported_features", "supported_sampling_parameters", "quantization", "chute_id", "name"}
    | {"confidential_compute"}
)
_NOTHING: Mapping[str, Any] = {}


def _identifier(row: Mapping[str, Any]) -> str | None:
    """Return a row's id in its spelling; Ollama's and Google's own lists call it `name`."""
    if "id" in row:
        return _line(row["id"])
    name = _line(row.get("name"))
    # A display name has spaces; a name to ask for has none.
    return name.removeprefix("models/") or None if name and " " not in name else None


def _fields(row: Mapping[str, Any], quirks: frozenset[Quirk]) -> dict[str, Any]:
    """Return the attributes that a row tells; what it leaves open is absent."""
    architecture, top_provider = _mapping(row, "architecture"), _mapping(row, "top_provider")
    confidential = row.get("confidential_compute")
    told: dict[str, Any] = {
        "name": _display_name(row),
        "context_length": _first_length(row, _CONTEXT_KEYS)
        or _length(top_provider.get("context_length")),
        "max_output_length": _first_length(row, _OUTPUT_KEYS)
        or _length(top_provider.get("max_completion_tokens")),
        "price": _price(row, 1e6 if "price_per_token" in quirks else 1.0),
        "input_modalities": _strings(row.get("input_modalities"))
        or _strings(architecture.get("input_modalities"))
        or _flagged_inputs(row),
        "output_modalities": _strings(row.get("output_modalities"))
        or _strings(architecture.get("output_modalities")),
        "features": _strings(row.get("supported_features")) or _implied_features(row),
        "sampling_parameters": _strings(row.get("supported_sampling_parameters"))
        or tuple(
            name
            for name in _strings(row.get("supported_parameters"))
            if name not in _PARAMETER_FEATURES
        ),
        "quantization": _line(row.get("quantization")),
        "chute_id": _line(row.get("chute_id")),
        "confidential_compute": confidential if isinstance(confidential, bool) else None,
    }
    fields = {key: value for key, value in told.items() if value is not None and value != ()}
    fields["extra"] = {key: value for key, value in row.items() if key not in _HELD}
    return fields


def _display_name(row: Mapping[str, Any]) -> str | None:
    name = row.get("name") if "id" in row else None
    return _line(row.get("display_name")) or _line(row.get("displayName")) or _line(name)


def _flagged_inputs(row: Mapping[str, Any]) -> tuple[str, ...]:
    flagged = _flagged(row, _INPUT_FLAGS, _CAPABILITY_INPUTS)
    return ("text", *flagged) if flagged else ()


def _implied_features(row: Mapping[str, Any]) -> tuple[str, ...]:
    parameters = _strings(row.get("supported_parameters"))
    implied = [_PARAMETER_FEATURES[name] for name in parameters if name in _PARAMETER_FEATURES]
    return tuple(dict.fromkeys([*implied, *_flagged(row, _FEATURE_FLAGS, _CAPABILITY_FEATURES)]))


def _flagged(
    row: Mapping[str, Any], flags: Mapping[str, str], capabilities: Mapping[str, str]
) -> list[str]:
    """Return what the row's flags and its `capabilities` stand for, those that are true."""
    found = [meaning for flag, meaning in flags.items() if row.get(flag) is True]
    support = _mapping(row, "capabilities")
    return found + [
        meaning
        for name, meaning in capabilities.items()
        if _mapping(support, name).get("supported") is True
    ]


def _price(row: Mapping[str, Any], scale: float) -> Price | None:
    """Read `pricing`, and for what it lacks Chutes' older `price`; both parts or nothing."""
    pricing, price = _mapping(row, "pricing"), _mapping(row, "price")

    def dollars(key: str, older: str) -> float | None:
        amount = _amount(pricing.get(key))
        if amount is None:
            return _amount(_mapping(price, older).get("usd"))
        # Rounded, or 0.0000003 dollars a token would be 0.29999999999999999 a million.
        return amount if scale == 1.0 else round(amount * scale, 9)

    prompt, completion = dollars("prompt", "input"), dollars("completion", "output")
    if prompt is None or completion is None:
        return None
    return Price(prompt, completion, dollars("input_cache_read", "input_cache_read"))


# --- values of any kind: plain loops and exact types, since a list may have thousands of rows ----


def _first_length(row: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    for key in keys:
        if key in row and (number := _length(row[key])):
            return number
    return None


def _length(value: Any) -> int | None:
    """Return a number of tokens; beyond 2**53 opencode could not read it back."""
    number = _number(value)
    return int(number) if number is not None and 1 <= number <= 2**53 else None


def _amount(value: Any) -> float | None:
    """Return an amount of dollars; below zero means "it depends" at some providers."""
    number = _number(value)
    return number if number is not None and number >= 0 else None


def _number(value: Any) -> float | None:
    """Return a finite number, also one that is written as a string; a bool is none."""
    if type(value) not in (int, float, str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _line(value: Any) -> str | None:
    """Return a text that fits a terminal, a config and a file: one printable line."""
    if type(value) is str and value.isprintable() and not value.isspace():
        return value or None
    return None


def _strings(value: Any) -> tuple[str, ...]:
    if type(value) is not list:
        return ()
    texts = tuple([item for item in value if type(item) is str])
    return _printable(texts)


@lru_cache(maxsize=1024)  # the rows of a list tell the same few lists of words
def _printable(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text and text.isprintable()))


def _mapping(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    return value if type(value) is dict else _NOTHING
