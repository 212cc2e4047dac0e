"""What `batch run` and `batch estimate` can be told: their options, and options without a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, cast

import typer
from typer.core import TyperCommand

from chutes_opencode.cli.completion import complete_models
from chutes_opencode.cli.output import JsonOption, SimulateOption
from chutes_opencode.cli.prompt import Engine, read_params, read_schema
from chutes_opencode.cli.session import ProviderOption
from chutes_opencode.errors import ConfigurationError, OpenCodeError

if TYPE_CHECKING:
    from chutes_opencode.batch.running.runner import BatchArguments

ITEMS = "Items: what is asked"
MODEL = "Model: who is asked, and how"
AGENT = "Agent: what it may do"
RUN = "Run: how many, how fast, how dear"
CLUSTER = "Cluster: where it runs"
AGAIN = "Again: what was run before"
OUTPUT = "Output"

ALL = "all"
DEFAULT_SEED = 0


class ItemsFormat(StrEnum):
    """How the rows of a dataset are written."""

    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


class OnBudget(StrEnum):
    """What becomes of prompts in flight when the budget is used up."""

    FINISH = "finish"
    CUT = "cut"


class Transcripts(StrEnum):
    """Whose transcripts are kept."""

    ALL = "all"
    FAILED = "failed"
    NONE = "none"


class On(StrEnum):
    """Where a batch runs."""

    LOCAL = "local"
    RAY = "ray"


class Cluster(TypedDict):
    """On which cluster a batch runs, as `ray_batch` takes it.

    Attributes:
        address: The cluster's; None: the one that is found, else one of this machine.
        workers: How many; None: one for each node.
    """

    address: str | None
    workers: int | None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked, and of whom: the options of `batch run` and of `batch estimate`.

    What each is for stands in its help.
    """

    items: Annotated[
        str,
        typer.Argument(
            metavar="ITEMS",
            help="File with a prompt in each row: .jsonl, .csv, .tsv or .parquet; - is standard "
            "input (JSONL).",
            show_default=False,
        ),
    ]
    template: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help='The prompt, with columns in braces: "Translate {text} to {language}".',
            rich_help_panel=ITEMS,
        ),
    ] = None
    prompt_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help='Instead of "prompt".', rich_help_panel=ITEMS),
    ] = None
    id_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='Instead of "id"; rows without one are known by a hash of what they ask.',
            rich_help_panel=ITEMS,
        ),
    ] = None
    keep_columns: Annotated[
        bool,
        typer.Option(
            "--keep-columns",
            help="Pass columns that mean nothing here through to the results' metadata.",
            rich_help_panel=ITEMS,
        ),
    ] = False
    file_format: Annotated[
        ItemsFormat | None,
        typer.Option("--format", help="Instead of the file's suffix.", rich_help_panel=ITEMS),
    ] = None
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad", help="Leave bad rows out, instead of refusing all.", rich_help_panel=ITEMS
        ),
    ] = False
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the first N items.", rich_help_panel=ITEMS),
    ] = None
    shuffle: Annotated[
        int | None,
        typer.Option(
            metavar="[SEED]",
            help="Take them in a random order; "
            f"the same seed ({DEFAULT_SEED}) gives the same order.",
            rich_help_panel=ITEMS,
            show_default=False,
        ),
    ] = None
    samples: Annotated[
        int,
        typer.Option(
            "--samples-per-item",
            min=1,
            metavar="N",
            help="Ask each N times.",
            rich_help_panel=ITEMS,
        ),
    ] = 1
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="ID",
            help="Repeat it to ask several models; without it: the setting default_model.",
            autocompletion=complete_models,
            rich_help_panel=MODEL,
        ),
    ] = None
    provider: ProviderOption = "chutes"
    system: Annotated[
        str,
        typer.Option(
            "--system",
            metavar="TEXT",
            help="System message, sent literally.",
            rich_help_panel=MODEL,
        ),
    ] = ""
    params: Annotated[
        list[str] | None,
        typer.Option(
            "--params",
            metavar="KEY=VALUE",
            help="Key of the request body (temperature=0, max_tokens=500), value as JSON; "
            "repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None
    schema: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON Schema that each answer must fit.", rich_help_panel=MODEL
        ),
    ] = None
    engine: Annotated[
        Engine,
        typer.Option(
            help="auto and serve: warm opencode servers; run: an opencode for each prompt; direct: "
            "plain chats without opencode.",
            rich_help_panel=MODEL,
        ),
    ] = Engine.AUTO
    no_tools: Annotated[
        bool,
        typer.Option(
            "--no-tools", help="Pure chats: no shell, no files, no web.", rich_help_panel=AGENT
        ),
    ] = False
    work_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="All agents work in this folder; without it, each in an empty one of its own.",
            rich_help_panel=AGENT,
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Most prompts at once (on Ray: of each worker); fewer run as long as the provider "
            "takes no more.",
            rich_help_panel=RUN,
        ),
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="USD",
            help="Most dollars for the whole run, earlier sessions included.",
            rich_help_panel=RUN,
        ),
    ] = None
    simulate: SimulateOption = False
    as_json: JsonOption = False

    def arguments(self, **others: Any) -> BatchArguments:
        """Return how the batch is run, as `run_batch` takes it.

        Args:
            **others: Further arguments, as they are.

        Raises:
            ConfigurationError: The schema cannot be read.
        """
        return {
            "models": self.models or (),
            "template": self.template,
            "prompt_column": self.prompt_column,
            "id_column": self.id_column,
            "keep_columns": self.keep_columns,
            "format": None if self.file_format is None else self.file_format.value,
            "output_schema": None if self.schema is None else read_schema(self.schema),
            "samples_per_item": self.samples,
            "limit": self.limit,
            "shuffle": self.shuffle,
            "skip_bad": self.skip_bad,
            "concurrency": self.concurrency,
            "max_cost_usd": self.max_cost,
            **cast("BatchArguments", others),
        }

    def instance(self) -> dict[str, Any]:
        """Return how the answering instance is set up, as `ChutesOpenCodeLLM` takes it."""
        return {
            "system_message": self.system,
            "params": read_params(self.params or (), {}),
            "builtin_tools": not self.no_tools,
            "work_dir": self.work_dir,
            "engine": self.engine.value,
        }


class OptionalValues(TyperCommand):
    """A command whose options `--shuffle` and `--retry-failed` may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write the values out that were meant."""
        end = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*with_values(args[:end]), *args[end:]])


def with_values(args: Sequence[str]) -> Iterator[str]:
    """Yield a command line in which no option lacks its value.

    A word after the option is its value only if it can be nothing else: a number after
    `--shuffle`, the names of error classes after `--retry-failed`.
    """
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--shuffle":
            yield f"{word}={rest.pop(0) if rest and _is_number(rest[0]) else DEFAULT_SEED}"
        elif word == "--retry-failed":
            classes = []
            while rest and _is_error_class(rest[0]):
                classes.append(rest.pop(0))
            yield from (f"{word}={name}" for name in classes or (ALL,))
        else:
            yield word


def read_cluster(on: On, address: str | None, workers: int | None) -> Cluster | None:
    """Return the cluster that is meant; None: this machine, without Ray.

    Raises:
        ConfigurationError: Something is said of a cluster that is not asked for.
    """
    if on is On.RAY:
        return {"address": address, "workers": workers}
    for option, value in (("--address", address), ("--workers", workers)):
        if value is not None:
            raise ConfigurationError(
                raw_message=f"{option} is about a Ray cluster, and the batch runs on this machine",
                hint=f"Add --on ray, or leave {option} out.",
            )
    return None


def read_retry(values: Sequence[str]) -> bool | tuple[str, ...]:
    """Return which failures are tried again: none, all, or those of some classes.

    Args:
        values: What stands at `--retry-failed`: names, several with commas between them.

    Raises:
        ConfigurationError: There is no such class.
    """
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if not names or ALL in names:
        return bool(names)
    known = error_classes()
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise ConfigurationError(
                raw_message=f"--retry-failed: there is no error class {name!r}",
                hint=f"{meant}`chutes-opencode batch status DIR` names those of a run.",
            )
    return tuple(dict.fromkeys(names))


def error_classes() -> frozenset[str]:
    """Return the names of all errors that a failure may have."""
    from chutes_opencode import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return frozenset(kind.__name__ for kind in kinds if issubclass(kind, OpenCodeError))


def _is_number(word: str) -> bool:
    return word.removeprefix("-").isdecimal()


def _is_error_class(word: str) -> bool:
    return all(name.isidentifier() and name.endswith("Error") for name in word.split(","))
