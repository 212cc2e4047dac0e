"""In what a provider differs from the plain OpenAI-compatible API: a closed list. Pure."""

from __future__ import annotations

from typing import Literal

Quirk = Literal[
    "routing_suffixes",  # `id:latency`, `id:throughput` choose how a request is routed
    "model_lists",  # `a,b` is a list of models that the server tries in turn
    "tee_renames",  # the old id `X` still names `X-TEE`
    "saved_aliases",  # an account can save names of its own for models
    "management_api",  # the account, its quota and warm-ups have an API on a host of their own
    "chutes_errors",  # error bodies are worded as those of Chutes
    "price_per_token",  # prices are told in dollars per token, not per million
]
"""A difference that our code knows; whatever uses one asks for it by this name."""
