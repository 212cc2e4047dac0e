"""Tasks of a batch become prompts of an instance; what was paid for is never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from chutes_opencode.batch.item import BatchItem, Task
from chutes_opencode.batch.repositories.worktrees import Worktrees
from chutes_opencode.batch.running.executor import (
    CutError,
    Finished,
    LlmExecutor,
)
from chutes_opencode.errors import (
    BillingError,
    ConfigurationError,
    ModelNotFoundError,
    PromptTimeoutError,
)
from chutes_opencode.limits import Budget
from chutes_opencode.llm import ChutesOpenCodeLLM
from chutes_opencode.request import Params
from tests.patience import WAIT_SECONDS
from tests.unit.echo import EchoEngine, set_up_echo

T = TypeVar("T")
SCHEMA = {"type": "object"}


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EchoEngine:
    return set_up_echo(tmp_path, monkeypatch)


def executor(concurrency: int = 4, **fields: Any) -> LlmExecutor:
    setup = fields.pop("setup", {})
    return LlmExecutor(ChutesOpenCodeLLM(**{"model": "m"} | setup), concurrency, **fields)


def task(prompt: str = "hi", *, model: str = "", sample: int = 0, **fields: Any) -> Task:
    return Task(BatchItem("one", prompt, **fields), model, sample)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, WAIT_SECONDS))


# --- what is asked --------------------------------------------------------------------------------


def test_an_item_is_asked_as_a_prompt(engine: EchoEngine) -> None:
    finished = run(executor().run(task("hi")))

    assert isinstance(finished, Finished)
    assert (finished.result.result, finished.result.success) == ("re: hi", True)
    assert finished.diff is None


def test_what_an_item_does_not_tell_is_the_batchs_or_the_instances(engine: EchoEngine) -> None:
    setup = {"system_message": "Be brief.", "params": Params(seed=1, temperature=0.5)}
    one = executor(setup=setup, defaults={"work_dir": "/w"})

    run(one.run(task("hi", params={"seed": 2, "top_k": 5})))
    run(one.run(task("hi", system="Be long.", work_dir="/v")))

    first, second = engine.requests
    assert (first.model, first.system_message, first.work_dir) == ("m", "Be brief.", Path("/w"))
    assert first.params == Params(temperature=0.5, seed=2, extra_body={"top_k": 5})
    assert (second.system_message, second.work_dir) == ("Be long.", Path("/v"))
    assert second.params == Params(temperature=0.5, seed=1)


@pytest.mark.parametrize(
    ("base", "own", "params"),
    [
        (Params(seed=1), {}, None),
        (Params(seed=1), {"temperature": 0.0}, Params(seed=1, temperature=0.0)),
        (Params(stop="a"), {"stop": ["b", "c"]}, Params(stop=("b", "c"))),
        (
            Params(extra_body={"top_k": 1, "min_p": 0.5}),
            {"top_k": 2},
            Params(extra_body={"top_k": 2, "min_p": 0.5}),
        ),
        (Params(extra_body={"seed": 1}), {"seed": 2}, Params(seed=2)),
    ],
)
def test_an_items_sampling_parameters_go_over_the_instances(
    engine: EchoEngine, base: Params, own: dict[str, Any], params: Params | None
) -> None:
    arguments = executor(setup={"params": base}).arguments(task(params=own))

    assert arguments.get("params") == params


def test_all_that_an_item_tells_is_passed_on(engine: EchoEngine) -> None:
    budget = Budget("b", 1.0)
    messages = ({"role": "user", "content": "hi"},)
    item = {"messages": messages, "files": ("a.txt",), "output_schema": SCHEMA}
    one = executor(budget=budget, defaults={"output_schema": {"type": "string"}})

    assert one.arguments(task("", model="x", sample=3, **item)) == {
        "prompt": "",
        "model": "x",
        "messages": messages,
        "files": ("a.txt",),
        "output_schema": SCHEMA,
        "sample_index": 3,
        "budget": budget,
    }


@pytest.mark.parametrize(
    ("of_task", "of_item", "asked"), [("a", None, "a"), ("", "b", "b"), ("a", "b", "a")]
)
def test_the_task_names_the_model(
    engine: EchoEngine, of_task: str, of_item: str | None, asked: str
) -> None:
    what = Task(BatchItem("one", "hi", model=of_item), of_task)

    assert executor().arguments(what)["model"] == asked


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "cls"),
    [
        (task("poor"), BillingError),
        (task("slow"), PromptTimeoutError),
        (task("hi", model="no/x"), ModelNotFoundError),
        (task("hi", params={"temperature": -1}), ConfigurationError),
        (task("hi", repo="/r"), ConfigurationError),
    ],
    ids=["the account", "time", "the model", "a parameter", "no place for a repository"],
)
def test_a_failure_is_in_the_result(engine: EchoEngine, what: Task, cls: type[Exception]) -> None:
    finished = run(executor().run(what))

    assert isinstance(finished.result.error, cls)
    assert not finished.result.success


# --- repositories ---------------------------------------------------------------------------------


@dataclass
class Tree:
    path: Path
    patch: str

    async def diff(self) -> str:
        if self.patch == "refuse":
            raise ConfigurationError(raw_message="too large")
        if self.patch == "wait":
            await asyncio.Event().wait()
        return self.patch


class Trees:
    """Working trees without a git."""

    def __init__(self, folder: Path, patch: str) -> None:
        self.tree = Tree(folder, patch)
        self.asked: list[tuple[str, str | None]] = []
        self.out = 0

    @asynccontextmanager
    async def checkout(self, repo: str, commit: str | None) -> AsyncIterator[Tree]:
        self.asked.append((repo, commit))
        if repo == "none":
            raise ConfigurationError(raw_message="no such repository")
        self.out += 1
        try:
            yield self.tree
        finally:
            self.out -= 1


class SlowTrees(Trees):
    """Working trees whose end takes until it is allowed."""

    def __init__(self, folder: Path, patch: str) -> None:
        super().__init__(folder, patch)
        self.ending = asyncio.Event()
        self.may_end = asyncio.Event()

    @asynccontextmanager
    async def checkout(self, repo: str, commit: str | None) -> AsyncIterator[Tree]:
        async with super().checkout(repo, commit) as tree:
            try:
                yield tree
            finally:
                self.ending.set()
                await self.may_end.wait()


def in_repository(trees: Trees, **fields: Any) -> Finished:
    one = executor(worktrees=cast("Worktrees", trees))
    return run(one.run(task("hi", **{"repo": "r", "commit": "c"} | fields)))


def test_a_prompt_on_a_repository_works_in_a_tree_of_its_own(
    engine: EchoEngine, tmp_path: Path
) -> None:
    trees = Trees(tmp_path, "the patch")

    finished = in_repository(trees)

    assert (finished.result.success, finished.diff) == (True, "the patch")
    assert engine.requests[0].work_dir == tmp_path
    assert (trees.asked, trees.out) == ([("r", "c")], 0)


def test_without_a_repository_nothing_is_asked(engine: EchoEngine, tmp_path: Path) -> None:
    finished = in_repository(Trees(tmp_path, ""), repo="none")

    assert isinstance(finished.result.error, ConfigurationError)
    assert engine.requests == []


def test_what_was_paid_for_is_not_lost_with_its_patch(engine: EchoEngine, tmp_path: Path) -> None:
    finished = in_repository(Trees(tmp_path, "refuse"))

    assert isinstance(finished.result.error, ConfigurationError)
    assert (finished.result.success, finished.diff) == (False, None)
    assert finished.result.usage.input == 1


# --- what is cut ----------------------------------------------------------------------------------


async def cut(one: LlmExecutor, what: Task, engine: EchoEngine) -> Finished:
    """Cancel a task in its midst and return what it gives back."""
    running = asyncio.create_task(one.run(what))
    await asyncio.to_thread(engine.began.wait, WAIT_SECONDS)
    running.cancel()
    with pytest.raises(CutError) as caught:
        await running
    return caught.value.finished


def test_a_task_that_is_cut_gives_back_what_was_paid_for(engine: EchoEngine) -> None:
    finished = run(cut(executor(), task("wait"), engine))

    assert engine.ended.is_set()
    result = finished.result
    assert (result.success, result.error, result.usage.input) == (False, None, 1)
    assert result.cost_usd == pytest.approx(1e-6)


def test_a_task_that_is_cut_before_it_began_has_cost_nothing(engine: EchoEngine) -> None:
    async def main() -> Finished:
        one = executor()
        before = [asyncio.create_task(one.run(task("wait"))) for _ in range(2)]
        while len(engine.requests) < len(before):  # they have all places that there are
            await asyncio.sleep(0.001)
        running = asyncio.create_task(one.run(task("hi")))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(CutError) as caught:
            await running
        await one.close()
        await asyncio.gather(*before, return_exceptions=True)
        return caught.value.finished

    assert run(main()).result.usage.num_requests == 0
    assert [each.prompt for each in engine.requests] == ["wait", "wait"]


def test_a_prompt_whose_patch_was_not_read_is_cut_with_its_cost(
    engine: EchoEngine, tmp_path: Path
) -> None:
    trees = Trees(tmp_path, "wait")
    one = executor(worktrees=cast("Worktrees", trees))

    async def main() -> Finished:
        running = asyncio.create_task(one.run(task("hi", repo="r")))
        while not engine.requests or not all(s.ended for s in one._running.values()):
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(CutError) as caught:
            await running
        return caught.value.finished

    finished = run(main())

    assert (finished.result.success, finished.result.usage.input) == (False, 1)
    assert trees.out == 0


def test_closing_cuts_what_still_runs(engine: EchoEngine) -> None:
    one = executor()

    async def main() -> CutError:
        running = asyncio.create_task(one.run(task("wait")))
        await asyncio.to_thread(engine.began.wait, WAIT_SECONDS)
        await one.close()
        with pytest.raises(CutError) as caught:
            await running
        return caught.value

    assert run(main()).finished.result.usage.input == 1
    assert engine.ended.is_set()


def test_closing_waits_for_what_was_told_twice_to_end(engine: EchoEngine, tmp_path: Path) -> None:
    async def main() -> tuple[bool, int]:
        trees = SlowTrees(tmp_path, "wait")
        one = executor(worktrees=cast("Worktrees", trees))
        running = asyncio.create_task(one.run(task("hi", repo="r")))
        while not engine.requests or not all(each.ended for each in one._running.values()):
            await asyncio.sleep(0.001)
        running.cancel()
        await trees.ending.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        closing = asyncio.create_task(one.close())
        done, _ = await asyncio.wait([closing], timeout=0.05)
        waited = not done
        trees.may_end.set()
        await closing
        return waited, trees.out

    assert run(main()) == (True, 0)
