"""What a batch will use and cost, before anything is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chutes_opencode.arguments import PromptArguments
from chutes_opencode.batch.estimate.answers import (
    ASSUMED_OUTPUT,
    Outputs,
    expected_outputs,
    first_samples,
    spread_over,
)
from chutes_opencode.batch.estimate.earlier import Earlier
from chutes_opencode.batch.estimate.outlook import account_left, warnings_of
from chutes_opencode.batch.estimate.overhead import (
    MEASURED_PROMPTS,
    Overhead,
    Sample,
    measure_overhead,
    tabled_overhead,
)
from chutes_opencode.batch.estimate.prompt_size import output_limit, prompt_tokens
from chutes_opencode.batch.estimate.quote import Asked, AskedModels, ModelEstimate, Range
from chutes_opencode.batch.item import Task
from chutes_opencode.batch.items.plain import plain
from chutes_opencode.batch.running.executor import LlmExecutor
from chutes_opencode.engine_set import choose_engine, default_places
from chutes_opencode.errors import OpenCodeError

if TYPE_CHECKING:
    from chutes_opencode.catalog.account import Account
    from chutes_opencode.llm import ChutesOpenCodeLLM

MOST_OUTPUT = 32_000
"""The most that an answer may have where neither the batch nor the model list says so."""
SEVERAL_STEPS = 1.05  # model requests of a prompt, on average, from which they are several

_RULE = (
    "Input tokens are counted by one rule: 4 bytes of text are a token, each message is rounded "
    "up; an image has 256, a PDF file 1,024. The provider's own count differs by model and "
    "language."
)
_PER_STEP = (
    "Agents with tools may take several steps, each of which sends everything before it again: "
    "what stands here is one step, the high end too."
)
_PRICES = "Dollars are the price list's, for input that is not cached; retries are not in them."


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a batch will use and cost.

    Attributes:
        items: Items of the dataset.
        tasks: Items times models times samples.
        pending: Tasks that have no result yet; all other numbers are about these.
        models: Each model's part.
        input_tokens: Of all models that are known.
        output_tokens: The same.
        cost_usd: US dollars; None: the price of a model is unknown.
        minutes: How long it takes; None: nothing is known of that.
        account: What is left of balance, quota and caps; None: nobody could be asked.
        warnings: What to look at before the start, a sentence each.
        method: How the numbers came about, a sentence a line.
    """

    items: int
    tasks: int
    pending: int
    models: tuple[ModelEstimate, ...]
    input_tokens: Range
    output_tokens: Range
    cost_usd: Range | None
    minutes: float | None
    account: Account | None
    warnings: tuple[str, ...]
    method: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it: of each model its name and id, times in ISO form."""
        values = dataclasses.asdict(self)
        for part in values["models"]:
            asked = part.pop("asked")
            model = asked.pop("model")
            part.update(asked, id=None if model is None else model["id"])
        told: dict[str, Any] = plain(values)
        return told


def estimate_batch(
    tasks: Callable[[], Iterator[Task]],
    llm: ChutesOpenCodeLLM,
    *,
    items: int | None = None,
    standing: Callable[[Task], str] = lambda task: "",
    defaults: PromptArguments | None = None,
    out_dir: Path | str | None = None,
    like: Path | str | None = None,
    measure: bool = True,
    simulate: bool = False,
    concurrency: int | None = None,
    max_cost_usd: float | None = None,
    ask_account: bool = True,
) -> Estimate:
    """Estimate a batch. Nothing is sent to the provider but questions that cost nothing.

    Args:
        tasks: Begins to read the batch's tasks; done twice.
        llm: The instance that is to run them.
        items: How many items there are; None: they are counted.
        standing: Tells the status of the result that a task has; "": it is to run.
        defaults: Arguments of every prompt, as `LlmExecutor` takes them.
        out_dir: The batch's own run: answers in it tell what further ones are like.
        like: Another run that tells it, where the batch's own has no answers.
        measure: Whether to run up to three prompts with the real engine against the simulator, to
            see what opencode adds; False: a table is used.
        simulate: Whether the simulator will answer the batch: then its answers are known.
        concurrency: How many prompts run at once; None: as many as the settings allow.
        max_cost_usd: What the batch may cost, to be compared with.
        ask_account: Whether to ask for balance and quota.

    Raises:
        ConfigurationError: No model is named, or `like` holds no answers.
    """
    counted = _Counted(tasks, standing)
    arguments = LlmExecutor(llm, 1, defaults=defaults or PromptArguments()).arguments
    models = AskedModels(llm)
    samples = first_samples(counted.pending(), arguments, llm, models)
    overhead, problem = _overhead(llm, samples, measure=measure)
    outputs = expected_outputs(llm, samples, out_dir, like, simulate=simulate)
    parts: dict[str, _Part] = {}
    for task in counted.pending(count=True):
        given = arguments(task)
        asked = models.get(given.get("model"))
        part = parts.setdefault(asked.name, _Part(asked))
        part.add(task, given, llm, overhead.of(asked.id), outputs.of(task.model))
    estimates = tuple(part.estimate(overhead) for part in parts.values())
    account, told = account_left(llm.settings) if ask_account else (None, ())
    engine = choose_engine(llm.options, single=False)
    places = concurrency or default_places(llm.settings, engine)
    estimate = Estimate(
        items=counted.items if items is None else items,
        tasks=counted.tasks,
        pending=counted.waiting,
        models=estimates,
        input_tokens=Range.sum(each.input_tokens for each in estimates),
        output_tokens=Range.sum(each.output_tokens for each in estimates),
        cost_usd=_total_cost(estimates),
        minutes=_minutes(parts.values(), places, outputs),
        account=account,
        warnings=(),
        method=_method(llm, overhead, outputs, estimates, places, engine),
    )
    problems = (*problem, *models.problems, *told)
    found = warnings_of(estimates, estimate.cost_usd, counted.waiting, account, max_cost_usd)
    return replace(estimate, warnings=(*found, *problems))


class _Counted:
    """Reads the tasks, and counts them."""

    def __init__(
        self, tasks: Callable[[], Iterator[Task]], standing: Callable[[Task], str]
    ) -> None:
        self._tasks = tasks
        self._standing = standing
        self.items = self.tasks = self.waiting = 0

    def pending(self, *, count: bool = False) -> Iterator[Task]:
        """Yield the tasks that have no result."""
        last = None
        for task in self._tasks():
            waits = not self._standing(task)
            if count:
                self.tasks += 1
                self.items += task.item.id != last
                self.waiting += waits
                last = task.item.id
            if waits:
                yield task


@dataclass(slots=True)
class _Part:
    """The tasks of one model, summed up as they are read."""

    asked: Asked
    tasks: int = 0
    input: Range = field(default_factory=Range)
    output: Range = field(default_factory=Range)
    seconds: float = 0.0
    timed: int = 0
    too_long: list[str] = field(default_factory=list)
    too_long_count: int = 0
    refused: list[str] = field(default_factory=list)
    refused_count: int = 0

    def add(
        self,
        task: Task,
        given: Mapping[str, Any],
        llm: ChutesOpenCodeLLM,
        extra: int,
        earlier: Earlier | None,
    ) -> None:
        """Add a task; one that cannot be sent counts apart."""
        self.tasks += 1
        model = self.asked.model
        if model is None:
            return
        try:
            size = prompt_tokens(given, llm.options, model.input_modalities, model.id) + extra
        except OpenCodeError as error:
            self.refused_count += 1
            if len(self.refused) < ModelEstimate.SHOWN:
                self.refused.append(f"{task.item.id}: {error.raw_message}")
            return
        asked = output_limit(given, llm.options)
        if model.context_length is not None and size + (asked or 1) > model.context_length:
            self.too_long_count += 1
            if len(self.too_long) < ModelEstimate.SHOWN:
                self.too_long.append(task.item.id)
        room = None if model.context_length is None else max(1, model.context_length - size)
        ceilings = (asked or model.max_output_length or MOST_OUTPUT, room)
        ceiling = min(number for number in ceilings if number is not None)
        self.input += _input(size, earlier)
        self.output += _output(ceiling, earlier)
        if earlier is not None and earlier.seconds:
            self.seconds += earlier.seconds
            self.timed += 1

    def estimate(self, overhead: Overhead) -> ModelEstimate:
        price = None if self.asked.model is None else self.asked.model.price
        return ModelEstimate(
            asked=self.asked,
            tasks=self.tasks,
            input_tokens=self.input,
            output_tokens=self.output,
            cost_usd=None if price is None else Range.cost(self.input, self.output, price),
            overhead_tokens=overhead.of(self.asked.id),
            too_long=tuple(self.too_long),
            too_long_count=self.too_long_count,
            refused=tuple(self.refused),
            refused_count=self.refused_count,
        )


def _input(size: int, earlier: Earlier | None) -> Range:
    if earlier is None or earlier.requests <= SEVERAL_STEPS:
        return Range(size, size, size)
    return Range(size, max(size, earlier.input.mean), max(size, earlier.input.high))


def _output(ceiling: int, earlier: Earlier | None) -> Range:
    if earlier is None:
        return Range(1, min(ASSUMED_OUTPUT, ceiling), ceiling)
    spread = earlier.output
    if earlier.requests > SEVERAL_STEPS:  # the ceiling is one step's
        return Range(spread.low, spread.mean, spread.high)
    return Range(*(min(number, ceiling) for number in (spread.low, spread.mean, spread.high)))


def _overhead(
    llm: ChutesOpenCodeLLM, samples: Sequence[Sample], *, measure: bool
) -> tuple[Overhead, tuple[str, ...]]:
    """Return what opencode adds, and why it could not be measured."""
    options = llm.options
    if not measure or not samples or choose_engine(options, single=False) == "direct":
        return tabled_overhead(options), ()
    try:
        return measure_overhead(llm, spread_over(samples, MEASURED_PROMPTS)), ()
    except OpenCodeError as error:
        reason = f"What opencode adds could not be measured: {error.raw_message}"
        return tabled_overhead(options), (reason,)


def _minutes(parts: Iterable[_Part], places: int, outputs: Outputs) -> float | None:
    parts = list(parts)
    timed = sum(part.timed for part in parts)
    if not timed:
        return None
    tasks = sum(part.tasks - part.refused_count for part in parts)
    seconds = sum(part.seconds for part in parts) / timed * tasks
    return seconds / min(places, tasks) / 60


def _total_cost(parts: Sequence[ModelEstimate]) -> Range | None:
    costs = [part.cost_usd for part in parts if part.asked.model is not None]
    known = [cost for cost in costs if cost is not None]
    is_known = len(known) == len(costs) and (known or not parts)
    return Range.sum(known) if is_known else None


def _method(
    llm: ChutesOpenCodeLLM,
    overhead: Overhead,
    outputs: Outputs,
    parts: Sequence[ModelEstimate],
    places: int,
    engine: str,
) -> str:
    options = llm.options
    lines = [_RULE, overhead.method, outputs.method]
    has_tools = engine != "direct" and bool(options.builtin_tools or options.tools)
    steps = [found.requests for found in outputs.by_model.values() if found.requests]
    if steps and max(steps) > SEVERAL_STEPS:
        mean = outputs.by_model["*"].requests
        lines.append(f"Those answers took {mean:.1f} steps on average: the input is theirs, too.")
    elif has_tools:
        lines.append(_PER_STEP)
    lines.append(_PRICES)
    if any(found.seconds for found in outputs.by_model.values()):
        lines.append(f"The time is the mean of those answers, with {places} prompts at once.")
    return "\n".join(lines)
