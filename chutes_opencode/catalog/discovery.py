"""Fetch a provider's model list: one GET."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from chutes_opencode.addresses import is_loopback
from chutes_opencode.catalog.models import Model, parse_models

FETCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found.

    Attributes:
        models: The models; empty when the list could not be had.
        problems: What went wrong, a sentence each.
    """

    models: tuple[Model, ...] = ()
    problems: tuple[str, ...] = ()


async def fetch_models(base_url: str, api_token: str | None = None) -> Listing:
    """Ask `GET <base_url>/models`; trouble is told in the answer, not raised.

    Args:
        base_url: The provider's OpenAI-compatible root, ending in `/v1` or the like.
        api_token: Sent as a bearer token where given; the list is public at Chutes.

    Returns:
        The models, and what went wrong.
    """
    headers = {"Authorization": f"Bearer {api_token}"} if api_token else {}
    # A proxy from the environment must never catch loopback traffic; redirects are not followed,
    # since they could carry the token to another host.
    async with httpx.AsyncClient(
        timeout=FETCH_SECONDS, trust_env=not is_loopback(base_url), follow_redirects=False
    ) as client:
        try:
            response = await client.get(f"{base_url}/models", headers=headers)
            response.raise_for_status()
            models, problems = parse_models(response.json())
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            return Listing(problems=(f"no model list from {base_url}: {error}",))
    return Listing(models, problems)
