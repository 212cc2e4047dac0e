"""Play the scenarios on one engine, several at a time, and keep what came of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from chutes_opencode import ChutesOpenCodeLLM, McpServer, OpenCodeError, QueryResult, Simulator
from chutes_opencode.events import Done, Event
from chutes_opencode.simulator import BillEntry, RecordedRequest
from tests.integration.conformance.differences import ENGINES, STRAIGHT
from tests.integration.conformance.plain import plain_events, plain_requests, plain_result
from tests.integration.conformance.scenario import (
    CACHE,
    OUTSIDE,
    REMOTE,
    SESSION,
    WORK,
    Scenario,
)
from tests.patience import longer_and_longer

# A process takes a core for seconds, but some wait; what comes at once is for tests of its own.
AT_ONCE = 3


@dataclass
class Answer:
    """What came of one call."""

    events: list[Event] = field(default_factory=list)
    result: QueryResult | None = None
    error: OpenCodeError | None = None


@dataclass(frozen=True)  # no slots: what is plain is kept beside the fields
class Outcome:
    """What came of a scenario.

    Attributes:
        answers: Of its calls.
        requests: What the simulator got for it.
        bill: What that costs.
        files: What lies in the caller's folder afterwards.
        temp: Folder of private folders.
    """

    answers: tuple[Answer, ...]
    requests: tuple[RecordedRequest, ...]
    bill: tuple[BillEntry, ...]
    files: Mapping[str, str]
    temp: Path

    @cached_property
    def plain(self) -> dict[str, Any]:
        """Return all of it in a form that can be compared."""
        return {
            "results": [plain_result(answer.result, self.temp) for answer in self.answers],
            "events": [plain_events(answer.events, self.temp) for answer in self.answers],
            "requests": plain_requests(self.requests, self.temp),
            "files": dict(self.files),
        }


class Stage:
    """A machine with a simulator, on which engines play one after the other."""

    def __init__(self, folder: Path, temp: Path, simulator: Simulator, remote: str) -> None:
        """Take what there is.

        Args:
            folder: For the callers' folders.
            temp: Folder of private folders.
            simulator: Stands for Chutes.
            remote: URL of a tool server.
        """
        self._folder, self._temp = folder, temp
        self._simulator, self._remote = simulator, remote

    def play(self, engine: str, scenarios: Iterable[Scenario]) -> dict[str, Outcome]:
        """Play scenarios on an engine; nothing of it runs on afterwards."""
        assert engine in ENGINES
        played = list(scenarios)
        self._simulator.reset()
        # An account of its own: else it would know what the engine before it learnt of the limits.
        os.environ["CHUTES_API_TOKEN"] = account(engine)
        with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda one: self._answers(stack, engine, one), played))
        requests, bill = self._simulator.requests, self._simulator.bill.entries
        return {
            scenario.name: self._outcome(scenario, found, requests, bill)
            for scenario, found in zip(played, answers, strict=True)
        }

    def _answers(self, stack: ExitStack, engine: str, scenario: Scenario) -> list[Answer]:
        if not scenario.begins:
            return self._calls(stack, engine, scenario, dict(scenario.options))
        for seconds in longer_and_longer(scenario.options[scenario.begins], tries=3):
            options = {**scenario.options, scenario.begins: seconds}
            answers = self._calls(stack, engine, scenario, options)
            result = answers[-1].result
            if result is not None and result.exchanges:
                break
        return answers

    def _calls(
        self, stack: ExitStack, engine: str, scenario: Scenario, options: dict[str, Any]
    ) -> list[Answer]:
        work = self._prepared(scenario)
        # An object of their own, for a server is shared by all instances until the last one ends.
        llm = ChutesOpenCodeLLM(
            **self._filled(options, work),
            engine=engine.partition(" ")[0],
            relay=engine not in STRAIGHT,
        )
        stack.callback(llm.close)
        answers: list[Answer] = []
        for call in scenario.calls:
            last = answers[-1].result if answers else None
            session = last.session_id if last is not None else None
            answers.append(_answer(llm, self._filled(call, work, session or "")))
        return answers

    def _prepared(self, scenario: Scenario) -> Path:
        """Make the caller's folders anew: they are the same ones for every engine."""
        root = self._place(scenario)
        shutil.rmtree(root, ignore_errors=True)
        for name, text in {f"{WORK}/{name}": text for name, text in scenario.files.items()}.items():
            path = root / name.replace(WORK, "work")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        for name in ("work", "outside"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "outside" / "secret").write_text("a secret")
        return root

    def _place(self, scenario: Scenario) -> Path:
        return self._folder / scenario.name.replace(" ", "-").replace("'", "")

    def _filled(self, value: Any, root: Path, session: str = "") -> Any:
        """Put what is known now in its place."""
        if isinstance(value, str):
            places = {WORK: root / "work", OUTSIDE: root / "outside", CACHE: root / "cache"}
            for name, known in {**places, REMOTE: self._remote, SESSION: session}.items():
                value = value.replace(name, str(known))
            return value
        if isinstance(value, McpServer):
            return replace(value, url=self._filled(value.url, root))
        if isinstance(value, Mapping):
            return {key: self._filled(one, root, session) for key, one in value.items()}
        if isinstance(value, list):
            return [self._filled(one, root, session) for one in value]
        return value

    def _outcome(
        self,
        scenario: Scenario,
        answers: list[Answer],
        requests: tuple[RecordedRequest, ...],
        bill: tuple[BillEntry, ...],
    ) -> Outcome:
        results = [answer.result for answer in answers if answer.result is not None]
        sessions = {one.session_id for result in results for one in result.exchanges} - {None}
        work = self._place(scenario) / "work"
        files = [path for path in sorted(work.rglob("*")) if path.is_file()]
        return Outcome(
            tuple(answers),
            tuple(one for one in requests if one.body and one.session_id in sessions),
            tuple(one for one in bill if one.session_id in sessions),
            {str(path.relative_to(work)): path.read_bytes().decode() for path in files},
            self._temp,
        )


def account(engine: str) -> str:
    """Return the key with which an engine asks."""
    return f"cpk_conformance_{engine.replace(' ', '_')}"


def _answer(llm: ChutesOpenCodeLLM, call: Mapping[str, Any]) -> Answer:
    answer = Answer()
    try:
        for event in llm.stream(**call):
            answer.events.append(event)
            if isinstance(event, Done):
                answer.result, answer.error = event.result, event.result.error
    except OpenCodeError as error:
        answer.result, answer.error = error.result, error
    return answer
