"""What the answers of a batch are expected to be like: from results, the simulator, or assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chutes_opencode.batch.estimate.earlier import Earlier, Spread, read_earlier
from chutes_opencode.batch.estimate.overhead import SIMULATED_PROMPTS, Sample, simulated_outputs
from chutes_opencode.batch.estimate.prompt_size import prompt_tokens
from chutes_opencode.batch.estimate.quote import AskedModels
from chutes_opencode.batch.item import Task
from chutes_opencode.errors import OpenCodeError

if TYPE_CHECKING:
    from chutes_opencode.llm import ChutesOpenCodeLLM

ASSUMED_OUTPUT = 300
"""Output tokens of an answer of which nothing is known."""
LOOKED_AT = 1_000
"""How many tasks are looked at to choose those that are tried."""
MOST_TRIED = 50_000  # input tokens of a prompt that is tried


@dataclass(frozen=True, slots=True)
class Outputs:
    """What answers are expected to be like.

    Attributes:
        by_model: By the model that was asked, "*" for the others; empty: nothing is known.
        method: How that is known, one sentence.
    """

    by_model: Mapping[str, Earlier] = field(default_factory=dict)
    method: str = ""

    def of(self, model: str) -> Earlier | None:
        """Return what answers of a model are like; None: nobody knows."""
        return self.by_model.get(model) or self.by_model.get("*")


def first_samples(
    pending: Iterator[Task],
    arguments: Callable[[Task], dict[str, Any]],
    llm: ChutesOpenCodeLLM,
    models: AskedModels,
) -> list[Sample]:
    """Return the first tasks that can be tried, the smallest first."""
    found = []
    for task in islice(pending, LOOKED_AT):
        given = arguments(task)
        model = models.get(given.get("model")).model
        if model is None:
            continue
        try:
            size = prompt_tokens(given, llm.options, model.input_modalities, model.id)
        except OpenCodeError:
            continue  # told of when all are counted
        if size <= min(MOST_TRIED, (model.context_length or MOST_TRIED) // 2):
            found.append(Sample(model, given, size, task.model))
    return sorted(found, key=lambda sample: sample.tokens)


def spread_over(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Choose samples of all sizes, from the smallest to the largest, and of many models."""
    if len(samples) <= count:
        return list(samples)
    last = len(samples) - 1
    chosen: list[int] = []
    for number in range(count):
        middle = round(number * last / max(1, count - 1))
        models = {samples[at].model.id for at in chosen}
        near = sorted(set(range(len(samples))) - set(chosen), key=lambda at: abs(at - middle))
        new = (at for at in near if samples[at].model.id not in models)
        chosen.append(next(new, near[0]))
    return [samples[at] for at in chosen]


def expected_outputs(
    llm: ChutesOpenCodeLLM,
    samples: Sequence[Sample],
    out_dir: Path | str | None,
    like: Path | str | None,
    *,
    simulate: bool,
) -> Outputs:
    """Return what is known of the answers.

    Args:
        llm: The instance.
        samples: Prompts of the batch.
        out_dir: The batch's own run, whose answers tell most.
        like: Another run.
        simulate: Whether the simulator will answer the batch.

    Raises:
        ConfigurationError: `like` holds no answers.
    """
    found = {} if out_dir is None else read_earlier(out_dir)
    where = "of this run"
    if not found and like is not None:
        found, where = read_earlier(like, must_exist=True), f"in {like}"
    if found:
        return Outputs(
            found,
            f"Output tokens are those of the {found['*'].prompts:,} answers {where}: their mean, "
            "and what all but a tenth exceed (low) and do not exceed (high).",
        )
    if not simulate or not samples:
        return Outputs(
            method=f"Output tokens are assumed: {ASSUMED_OUTPUT} an answer, 1 at least, and at "
            "most max_tokens or what the model may write; name an earlier run to learn from it."
        )
    step = -(-len(samples) // SIMULATED_PROMPTS)
    tried = samples[step // 2 :: step]
    lengths: dict[str, list[int]] = {"*": []}
    for sample, length in zip(tried, simulated_outputs(llm, tried), strict=True):
        lengths["*"].append(length)
        lengths.setdefault(sample.asked, []).append(length)
    nothing = Spread(0, 0, 0)
    return Outputs(
        {name: Earlier(len(n), Spread.of(n), nothing, 1.0, 0.0) for name, n in lengths.items()},
        f"Output tokens were measured: the simulator, which will answer the batch, was asked "
        f"{len(tried)} of its prompts.",
    )
