"""The look-up: fetched once, again when old, and never in the way when it fails."""

from __future__ import annotations

import asyncio

import pytest

from chutes_opencode.catalog.catalog import RETRY_SECONDS, Catalog
from chutes_opencode.catalog.discovery import Listing
from chutes_opencode.catalog.models import Model, Price
from chutes_opencode.catalog.providers import PROVIDERS, find_provider
from chutes_opencode.errors import ConfigurationError, ModelNotFoundError

QWEN = Model("Qwen/Qwen3-32B-TEE", 40960, price=Price(0.1, 0.4))
GLM = Model("zai-org/GLM-5.1-TEE")
FAILURE = Listing(problems=("no model list",))


class Server:
    """Answers listings in order, the last one for ever; tells the time too."""

    def __init__(self, *listings: Listing) -> None:
        self.listings = list(listings)
        self.asked: list[tuple[str, str | None]] = []
        self.now = 1000.0

    async def fetch(self, base_url: str, api_token: str | None) -> Listing:
        self.asked.append((base_url, api_token))
        await asyncio.sleep(0)
        return self.listings.pop(0) if len(self.listings) > 1 else self.listings[0]

    def catalog(self, refresh_interval: float = 60.0) -> Catalog:
        return Catalog(
            "http://base/v1",
            refresh_interval=refresh_interval,
            fetch=self.fetch,
            clock=lambda: self.now,
        )


def test_a_list_is_fetched_once_for_a_burst_of_look_ups() -> None:
    server = Server(Listing((QWEN,)))

    async def main() -> list[tuple[Model, ...]]:
        catalog = server.catalog()
        assert list(catalog.known) == []
        found = await asyncio.gather(*(catalog.models("key") for _ in range(5)))
        assert list(catalog.known) == [QWEN]
        return found

    assert asyncio.run(main()) == [(QWEN,)] * 5
    assert server.asked == [("http://base/v1", "key")]


@pytest.mark.parametrize(("age", "fetches"), [(0.0, 1), (60.0, 1), (60.1, 2)])
def test_an_old_list_is_fetched_again(age: float, fetches: int) -> None:
    server = Server(Listing((QWEN,)), Listing((GLM,)))

    async def main() -> tuple[Model, ...]:
        catalog = server.catalog()
        await catalog.models()
        server.now += age
        return await catalog.models()

    assert asyncio.run(main()) == ((QWEN,) if fetches == 1 else (GLM,))
    assert len(server.asked) == fetches


def test_a_refresh_fetches_however_fresh_the_list_is() -> None:
    server = Server(Listing((QWEN,)), Listing((GLM,)))

    async def main() -> tuple[Model, ...]:
        catalog = server.catalog()
        await catalog.models()
        return await catalog.refresh("key")

    assert asyncio.run(main()) == (GLM,)


def test_a_failed_fetch_is_told_and_soon_tried_again() -> None:
    server = Server(FAILURE, Listing((QWEN,)))

    async def main() -> None:
        catalog = server.catalog()
        assert await catalog.models() == ()
        assert catalog.problems == FAILURE.problems
        server.now += RETRY_SECONDS
        assert await catalog.models() == (QWEN,)
        assert catalog.problems == Listing().problems

    asyncio.run(main())


def test_a_failed_fetch_does_not_hold_up_the_next_prompt() -> None:
    server = Server(FAILURE, Listing((QWEN,)))

    async def main() -> None:
        catalog = server.catalog()
        assert await catalog.models() == ()
        assert await catalog.models() == ()

    asyncio.run(main())
    assert len(server.asked) == 1


def test_an_old_list_is_better_than_none() -> None:
    server = Server(Listing((QWEN,)), FAILURE)

    async def main() -> tuple[Model, ...]:
        catalog = server.catalog()
        await catalog.models()
        server.now += 1000
        return await catalog.models()

    assert asyncio.run(main()) == (QWEN,)


# --- resolving -----------------------------------------------------------------------------------


def resolve(asked: str, *listed: Model) -> Model:
    server = Server(Listing(listed) if listed else FAILURE)
    return asyncio.run(server.catalog().resolve(asked, "key"))


@pytest.mark.parametrize(
    "asked",
    ["Qwen/Qwen3-32B-TEE", "Qwen/Qwen3-32B", "Qwen/Qwen3-32B-TEE:latency", "Qwen/Qwen3-32B,other"],
)
def test_a_model_is_found_and_asked_in_the_callers_spelling(asked: str) -> None:
    model = resolve(asked, GLM, QWEN)

    assert (model.id, model.context_length, model.price) == (asked, 40960, QWEN.price)


def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ModelNotFoundError, match="unknown model 'Qwen/Qwen3-32'") as caught:
        resolve("Qwen/Qwen3-32", GLM, QWEN)

    assert caught.value.suggestions[0] == QWEN.id
    assert caught.value.model == "Qwen/Qwen3-32"


def test_without_a_list_nothing_is_refused() -> None:
    assert resolve("any/thing") == Model("any/thing")


# --- the registry --------------------------------------------------------------------------------


def test_the_registry_knows_chutes() -> None:
    provider = find_provider("chutes")

    assert provider is PROVIDERS["chutes"]
    assert provider.npm == "@ai-sdk/openai-compatible"


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="unknown provider 'acme'; known: chutes"):
        find_provider("acme")
