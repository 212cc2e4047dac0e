"""An attempt's way to the provider: what opencode is told, and what is seen on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from chutes_opencode.catalog.models import Price
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.engines.seat import Seat
from chutes_opencode.engines.watchdog import Patience
from chutes_opencode.engines.wire import GuardWire, RelayWire, relayed
from chutes_opencode.errors import ConfigurationError, ServerError
from chutes_opencode.events import Event, ReasoningDelta, StepEnd, TextDelta
from chutes_opencode.opencode.config import Target
from chutes_opencode.opencode.guard import OPENCODE_BODY_KEYS
from chutes_opencode.opencode.workspace import Workspace
from chutes_opencode.relay.booking import Booking
from chutes_opencode.relay.lease import Lease
from chutes_opencode.relay.server import Relay
from chutes_opencode.relay.terms import ReplayKey, SystemRule, Terms, Upstream
from chutes_opencode.request import FilePart, McpServer, Params, PromptRequest
from chutes_opencode.results import Exchange, Usage

KEY = "cpk_unit.test.key.of.nobody"
URL = "http://127.0.0.1:1/v1"
PICTURE = FilePart("a.png", b"1", "image/png")


def asked(**fields: Any) -> PromptRequest:
    return PromptRequest(**{"prompt": "hi", "model": "m"} | fields)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.guard.parent.mkdir()
    return made


# --- by itself, under the eyes of the guard -------------------------------------------------------


@pytest.fixture
def guard(workspace: Workspace) -> GuardWire:
    target = Target(find_provider("chutes"), URL)
    return GuardWire(asked(system_message="Be brief."), target, workspace, KEY)


def test_the_guards_way_is_the_providers_own(guard: GuardWire, workspace: Workspace) -> None:
    assert (guard.base_url, guard.key, guard.relayed) == (URL, KEY, False)
    assert guard.plugin == workspace.guard
    assert guard.agent_prompt == "Be brief."
    assert "export const Guard" in workspace.guard.read_text()


def test_a_guard_that_never_ran_has_seen_nothing(guard: GuardWire) -> None:
    assert guard.exchanges() == ()


def test_the_guards_records_are_the_exchanges(guard: GuardWire, workspace: Workspace) -> None:
    record = {"id": 1, "kind": "request", "time": 1.0, "model": "m"}
    workspace.guard.with_name("guard.jsonl").write_text(json.dumps(record))

    assert guard.exchanges() == (Exchange(requested_model="m"),)


def test_nobody_on_the_guards_way_ends_holds_or_tells_anything(guard: GuardWire) -> None:
    seen: list[Event] = []

    guard.bind("ses_1")
    guard.told(seen.append)(TextDelta(text="hi"))
    asyncio.run(guard.close())

    assert (guard.error(), guard.stopped(), guard.queued_s()) == (None, False, 0.0)
    assert seen == [TextDelta(text="hi")]


# --- by the relay ---------------------------------------------------------------------------------


class FakeRelay:
    """Makes leases, as the relay does; nobody listens."""

    url = "http://127.0.0.1:2/v1"
    alive = True

    def __init__(self) -> None:
        self.given_back: list[Lease] = []
        self.made: list[Lease] = []

    def lease(self) -> Lease:
        self.made.append(Lease(self.given_back.append))
        return self.made[-1]


class Way:
    """A way by a relay that is not there, and what can be seen of it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.seat = Seat(workspace.work)
        self.relay = FakeRelay()
        self.seen: list[Event] = []

    def open(
        self, terms: Terms | None = None, **fields: Any
    ) -> AbstractAsyncContextManager[RelayWire]:
        return relayed(
            cast("Relay", self.relay),
            asked(**fields),
            terms or terms_of(),
            self.workspace,
            self.seat,
            self.seen.append,
            Patience(),
        )

    @property
    def booking(self) -> Booking:
        (booking,) = self.relay.made[-1].bookings
        return booking

    def look(
        self, look: Callable[[RelayWire], Any], terms: Terms | None = None, **fields: Any
    ) -> Any:
        async def main() -> Any:
            async with self.open(terms, **fields) as wire:
                return look(wire)

        return asyncio.run(main())

    def terms(self, terms: Terms | None = None, **fields: Any) -> Terms:
        completed: Terms = self.look(lambda _wire: self.booking.terms, terms, **fields)
        return completed


def terms_of(**fields: Any) -> Terms:
    return Terms(Upstream("chutes", URL, lambda: KEY), {"m": Price(1.0, 1.0)}, "m", **fields)


@pytest.fixture
def way(workspace: Workspace) -> Way:
    return Way(workspace)


def test_opencode_is_told_the_relays_address_and_a_key_of_its_own(way: Way) -> None:
    told = way.look(lambda wire: (wire.base_url, wire.key, wire.plugin, wire.relayed))

    assert told == (way.relay.url, way.relay.made[0].key, None, True)
    assert KEY not in told


@pytest.mark.parametrize("context", [False, True])
def test_the_agents_prompt_is_a_word_that_becomes_the_system_message(
    way: Way, context: bool
) -> None:
    def look(wire: RelayWire) -> tuple[str | None, SystemRule | None]:
        return wire.agent_prompt, way.booking.terms.system

    marker, rule = way.look(look, system_message="Be brief.", context=context)
    another, _ = way.look(look, system_message="Be brief.")

    assert rule == SystemRule(marker, "Be brief.", keep_context=context)
    assert marker != another
    assert "brief" not in marker


def test_opencodes_own_prompt_is_left_alone(way: Way) -> None:
    prompt, rule = way.look(
        lambda wire: (wire.agent_prompt, way.booking.terms.system), system_message=None
    )

    assert (prompt, rule) == (None, None)


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({}, OPENCODE_BODY_KEYS),
        ({"params": Params(temperature=0.5)}, OPENCODE_BODY_KEYS | {"temperature"}),
        ({"params": Params(extra_body={"min_p": 0.1})}, OPENCODE_BODY_KEYS | {"min_p"}),
        ({"extra_cli_args": ("--variant", "high")}, None),
    ],
)
def test_only_what_the_caller_has_set_is_sent(
    way: Way, fields: dict[str, Any], keys: frozenset[str] | None
) -> None:
    assert way.terms(**fields).body_keys == keys


def test_tool_servers_must_be_there(way: Way) -> None:
    servers = (McpServer("a.b", url="http://h"), McpServer("web", url="http://h"))

    assert way.terms(tools=servers).tool_prefixes == ("a_b_", "web_")


def test_the_folder_of_attachments_is_hidden_where_there_are_any(way: Way) -> None:
    assert way.terms().hidden_paths == ()
    assert way.terms(attachments=(PICTURE,)).hidden_paths == (str(way.workspace.attachments),)


def test_folders_of_ours_do_not_tell_prompts_apart_in_the_cache(way: Way, tmp_path: Path) -> None:
    way.seat = Seat(Path("/kept/work"))
    terms = terms_of(replay=ReplayKey(tmp_path, 3, ("own",)))

    own, callers = way.terms(terms).replay, way.terms(terms, work_dir=Path("/mine")).replay

    assert own is not None
    assert callers is not None
    assert (own.folder, own.sample) == (tmp_path, 3)
    workspace = str(way.workspace.root)
    assert set(own.volatile) == {
        *("own", workspace, workspace.lstrip("/"), "/kept/work", "kept/work")
    }
    assert set(callers.volatile) == {"own", workspace, workspace.lstrip("/")}


def test_without_a_cache_nothing_is_kept(way: Way) -> None:
    assert way.terms().replay is None


def test_what_the_call_may_do_stays_as_it_is(way: Way) -> None:
    made = way.terms(terms_of(max_requests=7, max_tokens=9, tries_left=2))

    assert (made.max_requests, made.max_tokens, made.tries_left) == (7, 9, 2)


# --- what is seen on the way ----------------------------------------------------------------------


TOLD = [TextDelta(text="hi"), TextDelta(text=" you")]


async def tell(booking: Booking) -> None:
    """Tell as the relay does: on a loop of its own, several things in one turn."""
    for event in TOLD:
        booking.tell(event)


def test_what_the_relay_tells_arrives_on_the_attempts_loop(way: Way) -> None:
    async def main() -> None:
        async with way.open():
            await asyncio.to_thread(lambda: asyncio.run(tell(way.booking)))
            await asyncio.sleep(0)
            assert way.seen == TOLD

    asyncio.run(main())


def test_what_was_told_has_arrived_when_the_way_is_closed(way: Way) -> None:
    async def main() -> None:
        async with way.open() as wire:
            await tell(way.booking)
            await wire.close()
            assert way.seen == TOLD

    asyncio.run(main())


def test_opencodes_own_words_are_not_told_again(way: Way) -> None:
    told: list[Event] = []
    step = StepEnd(finish_reason="stop", usage=Usage())

    def look(wire: RelayWire) -> None:
        for event in (TextDelta(text="hi"), ReasoningDelta(text="hm"), step):
            wire.told(told.append)(event)

    way.look(look)

    assert told == [step]


def test_the_books_are_the_exchanges(way: Way) -> None:
    def look(wire: RelayWire) -> tuple[Exchange, ...]:
        way.booking.ledger.refuse("ses_1", "m", "model", at=0.0)
        return wire.exchanges()

    (seen,) = way.look(look)

    assert (seen.refused, seen.cost_usd) == ("model", 0.0)


def test_a_session_that_was_announced_is_the_only_one(way: Way) -> None:
    def look(wire: RelayWire) -> tuple[bool, bool]:
        wire.bind("ses_1")
        lease = way.relay.made[0]
        return lease.find("ses_2", None) is None, lease.find("ses_1", None) is way.booking

    assert way.look(look) == (True, True)


@pytest.mark.parametrize(("reason", "stopped"), [("failing", False), ("relay", True)])
def test_the_relays_end_is_the_attempts_error(way: Way, reason: str, stopped: bool) -> None:
    error = ServerError(raw_message="down")

    def look(wire: RelayWire) -> Any:
        before = (wire.error(), wire.stopped())
        way.booking.end(reason, error)
        return before, (wire.error(), wire.stopped())

    assert way.look(look) == ((None, False), (error, stopped))


def test_a_relay_that_died_without_a_word_ends_the_attempt(way: Way) -> None:
    def look(wire: RelayWire) -> Any:
        way.relay.alive = False
        return wire.stopped(), type(wire.error())

    assert way.look(look) == (True, ServerError)


def test_the_wait_for_the_first_permit_has_no_length_while_it_lasts(way: Way) -> None:
    async def main() -> list[float | None]:
        async with way.open() as wire:
            told = [wire.queued_s()]
            with way.booking.waits("the limiter"):
                told.append(wire.queued_s())
            way.booking.started, way.booking.queued_s = 1.0, 2.5
            with way.booking.waits("the next attempt"):
                told.append(wire.queued_s())
        return told

    assert asyncio.run(main()) == [0.0, None, 2.5]


# --- its end --------------------------------------------------------------------------------------


def test_a_closed_way_takes_no_more_requests(way: Way) -> None:
    async def main() -> None:
        async with way.open() as wire:
            booking = way.booking
            await wire.close()
            assert booking.closed

    asyncio.run(main())


def test_the_key_is_worth_nothing_afterwards_whatever_happens(way: Way) -> None:
    def break_off(_wire: RelayWire) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        way.look(break_off)

    assert way.relay.given_back == way.relay.made
    assert way.booking.closed


def test_a_limit_in_dollars_without_a_price_is_refused_and_leaves_no_key(way: Way) -> None:
    unpriced = Terms(Upstream("chutes", URL, lambda: KEY), {"m": None}, "m", max_cost_usd=1.0)

    with pytest.raises(ConfigurationError, match="needs the price of m"):
        way.look(lambda wire: wire, unpriced)

    assert way.relay.given_back == way.relay.made
