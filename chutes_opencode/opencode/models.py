"""A model as an entry of opencode's config. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from chutes_opencode.catalog.models import Model

DEFAULT_CONTEXT_LENGTH = 128_000
# Local servers load what the machine can hold; some write the length into the id.
LOCAL_CONTEXT_LENGTH = 32_768
DEFAULT_OUTPUT_LENGTH = 4096

OPENCODE_MODALITIES = frozenset({"text", "image", "pdf", "audio", "video"})
"""All that opencode's config takes; it refuses a config that names another one."""

_INTERLEAVED = {"field": "reasoning_content"}

# Thousands only: `270m` is a number of parameters.
_LENGTH_IN_ID = re.compile(r"(?<![a-z0-9.])(\d{1,4})k(?![a-z0-9])", re.IGNORECASE)


def model_entry(model: Model, *, local: bool = False) -> dict[str, Any]:
    """Return what stands under a model's id in the config.

    Every field is written out: where opencode's built-in list has the same id, what is left out
    would be taken from there.

    Args:
        model: What is known of it.
        local: Whether a server on the caller's own machine runs it: then an untold context length
            is read from its id, and untold features do not mean that it takes no tools.
    """
    modalities = _modalities(model.input_modalities, model.output_modalities)
    entry: dict[str, Any] = {
        "name": model.name or model.id,
        "limit": {
            "context": context_length(model, local=local),
            "output": output_length(model, local=local),
        },
        "tool_call": "tools" in model.features or (local and not model.features),
        "attachment": any(name != "text" for name in modalities["input"]),
        "modalities": modalities,
        "temperature": True,
    }
    reasoning = "reasoning" in model.features
    # Reasoning goes back to the model under the name under which it came.
    interleaved: Any = _INTERLEAVED if reasoning else False
    entry |= {"reasoning": reasoning, "interleaved": interleaved}
    if model.price is not None:
        entry["cost"] = {"input": model.price.input, "output": model.price.output}
        if model.price.cache_read is not None:
            entry["cost"]["cache_read"] = model.price.cache_read
    return entry


def context_length(model: Model, *, local: bool = False) -> int:
    """Return the model's context in tokens, a cautious value where untold.

    Args:
        model: What is known of it.
        local: Look for a length in its id (`…-128k` is 131,072), else take 32,768.
    """
    if model.context_length is not None:
        return model.context_length
    return _length_in_id(model.id) if local else DEFAULT_CONTEXT_LENGTH


def output_length(model: Model, *, local: bool = False) -> int:
    """Return the output limit in tokens; half of the context at most, so that input has room."""
    room = max(1, context_length(model, local=local) // 2)
    return min(model.max_output_length or DEFAULT_OUTPUT_LENGTH, room)


def _length_in_id(identifier: str) -> int:
    found = _LENGTH_IN_ID.search(identifier)
    return (int(found[1]) * 1024 if found else 0) or LOCAL_CONTEXT_LENGTH


@lru_cache(maxsize=256)  # thousands of models have the same few, and each entry is to be small
def _modalities(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> dict[str, list[str]]:
    known = [[n for n in told if n in OPENCODE_MODALITIES] for told in (inputs, outputs)]
    return {"input": known[0] or ["text"], "output": known[1] or ["text"]}
