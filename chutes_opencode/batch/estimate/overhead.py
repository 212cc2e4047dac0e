"""What opencode adds to a prompt: measured with the real one and a simulator, or from a table.

Nothing is sent to the provider, and nothing is paid: the simulator answers on this machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chutes_opencode.catalog.cache import Cache
from chutes_opencode.catalog.models import Model
from chutes_opencode.engine_set import choose_engine
from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.binary import TESTED_VERSION
from chutes_opencode.options import Options

if TYPE_CHECKING:
    from chutes_opencode.llm import ChutesOpenCodeLLM
    from chutes_opencode.results import QueryResult
    from chutes_opencode.simulator import Simulator

MEASURED_PROMPTS = 3
SIMULATED_PROMPTS = 200
"""How many answers of the simulator are looked at where it plays the provider."""

# Recorded with opencode 1.18.33 and the simulator, means over models of three makers (its own
# prompt is not the same for all); a test compares them with the real one.
TOOLS_TOKENS = 5390
OWN_PROMPT_TOKENS = 2270  # with the environment block
CONTEXT_TOKENS = 93

_PROVIDER = "chutes"  # whom the simulator plays


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt to try.

    Attributes:
        model: The model that it is for.
        arguments: As `LlmExecutor.arguments` gives them.
        tokens: Its input tokens without what opencode adds.
        asked: The model as the batch has it.
    """

    model: Model
    arguments: Mapping[str, Any]
    tokens: int
    asked: str = ""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Tokens that each prompt has more than was asked.

    Attributes:
        tokens: Of each model that was measured, by id; the others have `usual`.
        usual: Of any other model.
        method: How it is known, one sentence.
    """

    tokens: Mapping[str, int]
    usual: int
    method: str

    def of(self, model_id: str) -> int:
        """Return the tokens that a prompt to a model has more."""
        return self.tokens.get(model_id, self.usual)


def tabled_overhead(options: Options) -> Overhead:
    """Return what a table of the tested version says, for the kind of instance."""
    tokens = 0
    if choose_engine(options, single=False) != "direct":
        block = bool(options.builtin_tools or options.tools)
        tokens += TOOLS_TOKENS if options.builtin_tools else 0
        if options.system_message is None:
            tokens += OWN_PROMPT_TOKENS
        elif block if options.context is None else options.context:
            tokens += CONTEXT_TOKENS
    method = (
        f"What opencode adds to a prompt ({tokens:,} tokens) is what version {TESTED_VERSION} was "
        "seen to add."
    )
    if options.tools:
        method += " The tools of tool servers are not in it."
    return Overhead({}, tokens, method)


def measure_overhead(llm: ChutesOpenCodeLLM, samples: Sequence[Sample]) -> Overhead:
    """Run prompts with the instance's engine against a simulator, and see what it bills.

    The agents get one answer without a tool call, in empty folders: nothing happens. Tool servers
    are asked for their tools.

    Args:
        llm: The instance.
        samples: A few prompts, of every model that matters.

    Raises:
        OpenCodeError: They could not be run.
    """
    from chutes_opencode.simulator import Simulator

    options = llm.options
    engine = choose_engine(options, single=False)
    scenario = {
        "models": [_row(model) for model in {one.model.id: one.model for one in samples}.values()],
        "rules": [{"model": "*", "reply": "text", "text": "ok"}],
    }
    with Simulator(scenario) as simulator, _copy(llm, simulator, engine) as copy:
        found: dict[str, list[int]] = defaultdict(list)
        for sample, result in zip(samples, _ask(copy, samples, places=1), strict=True):
            # A task's schema is not fulfilled by "ok": its failure is none here.
            used = [exchange.usage for exchange in result.exchanges if exchange.usage is not None]
            if not used:
                result.raise_for_error()
                raise ConfigurationError(raw_message="the simulator has billed nothing")
            found[sample.model.id].append(used[0].input + used[0].cache_read - sample.tokens)
    tokens = {model: round(sum(extra) / len(extra)) for model, extra in found.items()}
    usual = round(sum(tokens.values()) / len(tokens))
    shown = ", ".join(f"{count:,} tokens with {model}" for model, count in tokens.items())
    number = "1 prompt was" if len(samples) == 1 else f"{len(samples)} prompts were"
    return Overhead(
        tokens,
        usual,
        f"What is added to a prompt ({shown}) was measured: {number} run with engine {engine} "
        "against the simulator, which is free.",
    )


def simulated_outputs(llm: ChutesOpenCodeLLM, samples: Sequence[Sample]) -> Iterator[int]:
    """Ask a simulator, without opencode, and yield the output tokens of each answer.

    For a batch that the simulator will answer: what it says does not depend on the engine.
    """
    from chutes_opencode.simulator import Simulator

    with Simulator() as simulator, _copy(llm, simulator, "direct") as copy:
        for result in _ask(copy, samples, places=8):
            yield result.usage.output + result.usage.reasoning


@contextmanager
def _copy(llm: ChutesOpenCodeLLM, simulator: Simulator, engine: str) -> Iterator[ChutesOpenCodeLLM]:
    """Give an instance that is set up alike but asks the simulator, once each."""
    options = llm.options
    settings = llm.settings.overridden(
        base_url=simulator.base_url,
        management_url=simulator.management_url,
        api_token=simulator.api_token,
        max_process_cost_usd=None,
        retries=1,
    )
    agent: dict[str, Any] = {
        "tools": options.tools,
        "permission": options.permission,
        "env": options.env,
        "context": options.context,
        "extra_cli_args": options.extra_cli_args if engine == "run" else (),
    }
    made = type(llm)(
        None,
        options.system_message if engine != "direct" else options.system_message or "",
        provider=_PROVIDER,
        engine=engine,
        params=options.params,
        builtin_tools=options.builtin_tools,
        agent_name=options.agent_name,
        settings=settings,
        logging_level="error",
        **({} if engine == "direct" else agent),
    )
    try:
        with made:
            yield made
    finally:
        with suppress(ConfigurationError):  # no other run has the simulator's address
            Cache(made.settings.home, _PROVIDER, made.settings.base_url).clear()


def _ask(copy: ChutesOpenCodeLLM, samples: Iterable[Sample], *, places: int) -> list[QueryResult]:
    left_out = ("budget", "work_dir", "sample_index", "session_id", "keep_session")
    items = []
    for sample in samples:
        kept = {key: value for key, value in sample.arguments.items() if key not in left_out}
        items.append({**kept, "model": sample.model.id})
    return copy.batch(items, concurrency=places)


def _row(model: Model) -> dict[str, Any]:
    """Return a model as a provider lists it."""
    row = {
        "id": model.id,
        "object": "model",
        "owned_by": "vllm",
        "context_length": model.context_length,
        "max_output_length": model.max_output_length,
        "input_modalities": list(model.input_modalities),
        "output_modalities": list(model.output_modalities),
        "supported_features": list(model.features),
    }
    return {name: value for name, value in row.items() if value is not None}
