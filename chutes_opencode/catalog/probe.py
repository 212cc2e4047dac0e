"""Try a provider: its list of models, then one small prompt on one of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from chutes_opencode.catalog.discovery import EMPTY, KEY_REFUSED, Fetched, fetch_models
from chutes_opencode.catalog.names import bare
from chutes_opencode.catalog.speed import (
    HINT_START,
    PROBE_SECONDS,
    ChatEndpoint,
    Probe,
    Verdict,
    probe_model,
)
from chutes_opencode.credentials import key_advice
from chutes_opencode.errors import AuthenticationError, ModelNotFoundError, ServerError

if TYPE_CHECKING:
    from chutes_opencode.catalog.models import Model
    from chutes_opencode.catalog.providers import Provider

# A name that no model has: asked where there is none, to see whether anybody listens.
NO_MODEL = "none"
_NO_CONNECTION = ("ConnectError", "ConnectTimeout")
_PULL = "Load or pull a model there, or name one with --model."
_NOT_FOR_TEXT = ("embed", "rerank", "whisper", "tts", "moderation")


async def probe(
    provider: Provider,
    base_url: str,
    key: str | None = None,
    *,
    model: str | None = None,
    prefer: Sequence[str] = (),
    seconds: float = PROBE_SECONDS,
) -> Probe:
    """Ask a provider for its models, then one of them for a few tokens; nothing is raised.

    A provider of a wire of its own is only asked for its models.

    Args:
        provider: The registry's entry.
        base_url: Where it is.
        key: What it gets to see; None: none.
        model: Whom to ask, with or without the provider's prefix; None: the first of `prefer` that
            is listed, else the cheapest.
        prefer: Ids, best first; the first one is taken where there is no list.
        seconds: What the prompt may take.
    """
    fetched = Fetched()
    if provider.discovery_path is not None:
        fetched = await fetch_models(provider, base_url, key)
    listed = len(fetched.models) if fetched.models or EMPTY in fetched.problems else None
    if provider.wire == "native":
        told = _without_prompt(provider, fetched, "only opencode's own package speaks to it")
    else:
        asked = _as_listed(model, fetched.models, provider) or choose_model(fetched.models, prefer)
        endpoint = ChatEndpoint(base_url, _headers(provider, key), provider.patterns)
        told = await probe_model(endpoint, asked or NO_MODEL, seconds=seconds)
        if asked is None:
            # That it has no such model is no news; that it broke or is not there is.
            is_there = told.verdict in ("refused", "ok", "slow")
            told = replace(told, model="")
            told = _without_prompt(provider, fetched, "no model writes text") if is_there else told
    return replace(told, models=listed, problems=fetched.problems)


def choose_model(models: Sequence[Model], prefer: Sequence[str]) -> str | None:
    """Return whom to ask: a preferred model that is listed, else the cheapest that writes text."""
    ids = {model.id for model in models}
    for name in prefer:
        if name in ids or not ids:
            return name
    writers = [
        model
        for model in models
        if "text" in model.output_modalities
        and not any(word in model.id.lower() for word in _NOT_FOR_TEXT)
    ]
    cheapest = min(writers, key=_cost, default=None)
    return None if cheapest is None else cheapest.id


def _cost(model: Model) -> float:
    return math.inf if model.price is None else model.price.input + model.price.output


def _as_listed(asked: str | None, models: Sequence[Model], provider: Provider) -> str | None:
    """Return what to send for a name; of an id that begins like the prefix nothing is taken."""
    if asked is None or asked in (*(model.id for model in models), *provider.default_models):
        return asked
    return bare(provider.id, asked)


def _headers(provider: Provider, key: str | None) -> dict[str, str]:
    return {**provider.headers, **({"Authorization": f"Bearer {key}"} if key else {})}


def _without_prompt(provider: Provider, fetched: Fetched, why: str) -> Probe:
    """Return what the list alone tells.

    Args:
        provider: Whose list it is.
        fetched: The list.
        why: Why no prompt was sent.
    """
    if fetched.models:
        return Probe("ok", detail=f"no prompt was sent: {why}")
    said = "; ".join(fetched.problems)
    if EMPTY in said or not said:
        missing = ModelNotFoundError(raw_message=f"{provider.name} offers no models", hint=_PULL)
        return Probe("no_models", detail=missing.raw_message, error=missing)
    if KEY_REFUSED in said:
        refusal = AuthenticationError(raw_message=said, hint=key_advice(provider))
        return Probe("key_refused", detail=said, error=refusal)
    verdict: Verdict = "unreachable" if any(n in said for n in _NO_CONNECTION) else "failing"
    return Probe(verdict, detail=said, error=ServerError(raw_message=said, hint=HINT_START))
