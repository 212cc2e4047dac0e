"""`chutes-opencode prompt`: one prompt, from the command line to its answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from chutes_opencode.cli.completion import complete_models
from chutes_opencode.cli.output import JsonOption, SimulateOption, print_json, result_fields, say
from chutes_opencode.cli.session import ProviderOption, provider_settings
from chutes_opencode.errors import ConfigurationError, InvalidRequestError, OpenCodeError

if TYPE_CHECKING:
    from collections.abc import Generator

    from chutes_opencode.arguments import PromptArguments
    from chutes_opencode.cli.live import LivePrinter
    from chutes_opencode.events import Event
    from chutes_opencode.llm import ChutesOpenCodeLLM
    from chutes_opencode.request import Limits, Params
    from chutes_opencode.results import QueryResult

# It computes what the prompt asks for, if that is arithmetic, else it repeats the prompt.
SIMULATED_MODEL = "Qwen/Qwen3-32B-TEE"
STDIN = "-"


class Engine(StrEnum):
    """What runs the prompt."""

    AUTO = "auto"
    RUN = "run"
    SERVE = "serve"
    DIRECT = "direct"


def prompt(
    text: Annotated[
        str | None,
        typer.Argument(help="The prompt; - or nothing: standard input.", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model id; without it: the setting default_model.")
    ] = None,
    provider: ProviderOption = "chutes",
    system: Annotated[str, typer.Option(help="System message, sent literally.")] = "",
    file: Annotated[
        list[Path] | None, typer.Option(help="A file to go with the prompt; may be repeated.")
    ] = None,
    here: Annotated[
        bool,
        typer.Option("--here", help="Let the agent work in this folder, by its AGENTS.md."),
    ] = False,
    work_dir: Annotated[
        Path | None, typer.Option(help="Let the agent work in that folder.")
    ] = None,
    no_tools: Annotated[
        bool, typer.Option("--no-tools", help="A pure chat: no shell, no files, no web.")
    ] = False,
    schema: Annotated[
        Path | None, typer.Option(help="JSON Schema file that the answer must fit.")
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Key of the request body, value as JSON; may be repeated."
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Largest number of output tokens.")] = None,
    reasoning_effort: Annotated[
        str | None, typer.Option(help="low, medium, high, … where the model knows it.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Id of a kept session to continue.")] = None,
    keep_session: Annotated[
        bool, typer.Option("--keep-session", help="Keep the session, so that it can be continued.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one attempt.")] = None,
    retries: Annotated[int | None, typer.Option(help="Attempts in all for one model step.")] = None,
    max_requests: Annotated[
        int | None, typer.Option(help="Most model requests to send, over all attempts.")
    ] = None,
    max_tokens_total: Annotated[
        int | None, typer.Option(help="Most tokens of all requests, input and output together.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(metavar="USD", help="Most dollars that the prompt may cost.")
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="Asked when the model is full, cold or gone; may be repeated.",
            autocompletion=complete_models,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep answers here; a prompt that was run before costs nothing."
        ),
    ] = None,
    sample_index: Annotated[
        int, typer.Option(min=0, help="With --cache: another number, another sample.")
    ] = 0,
    engine: Annotated[
        Engine,
        typer.Option(
            help="auto: run, or what keeps the --session; run: an opencode for this prompt; "
            "serve: a session on a server; direct: a plain chat without opencode."
        ),
    ] = Engine.AUTO,
    no_relay: Annotated[
        bool,
        typer.Option(
            "--no-relay", help="Let opencode talk to the provider itself; its agent sees the key."
        ),
    ] = False,
    thinking: Annotated[
        bool, typer.Option("--thinking", help="Show the model's reasoning on stderr.")
    ] = False,
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send one prompt to the opencode agent and print its answer.

    On a terminal the text appears as it comes; into a pipe goes the answer alone.
    """
    if here and work_dir is not None:
        raise ConfigurationError(raw_message="--here and --work-dir exclude each other")
    if sample_index and cache is None:
        raise ConfigurationError(raw_message="--sample-index tells samples apart in a --cache")
    message = read_message(text)
    named = {"temperature": temperature, "max_tokens": max_tokens}
    sampling = read_params(params or (), named | {"reasoning_effort": reasoning_effort})
    arguments: PromptArguments = {
        "files": file or (),
        "output_schema": None if schema is None else read_schema(schema),
        "session_id": session,
        "keep_session": keep_session,
        "sample_index": sample_index,
    }
    with provider_settings(
        provider, simulate=simulate, timeout_seconds=timeout, retries=retries
    ) as (_, settings):
        if simulate:
            say("simulated: the answer comes from the embedded simulator, not from a model")
            model = model or SIMULATED_MODEL
        with open_llm(
            model=model,
            provider=provider,
            engine=engine.value,
            system_message=system,
            params=sampling,
            builtin_tools=not no_tools,
            work_dir=Path.cwd() if here else work_dir,
            project_rules=here,
            limits=read_limits(max_requests, max_tokens_total, max_cost),
            fallback_models=fallback or (),
            cache=cache,
            relay=not no_relay,
            settings=settings,
        ) as llm:
            _answer(llm, message, arguments, as_json=as_json, thinking=thinking)


def open_llm(**arguments: Any) -> ChutesOpenCodeLLM:
    """Make the instance that answers."""
    from chutes_opencode.llm import ChutesOpenCodeLLM

    return ChutesOpenCodeLLM(**arguments)


def read_message(text: str | None) -> str:
    """Return the prompt: as it was given, or all of standard input, byte for byte.

    Raises:
        ConfigurationError: There is neither.
        InvalidRequestError: Standard input is not UTF-8.
    """
    if text is not None and text != STDIN:
        return text
    if text is None and sys.stdin.isatty():
        raise ConfigurationError(
            raw_message="there is no prompt",
            hint="Give it as an argument, or pipe it in: chutes-opencode prompt < question.txt",
        )
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            raw_message=f"standard input is not UTF-8 at byte {error.start}",
            hint="Convert it, or pass it with --file if it is an image or a document.",
        ) from error


def read_params(pairs: list[str] | tuple[()], named: dict[str, Any]) -> Params:
    """Return the sampling parameters.

    Args:
        pairs: `key=value`; the value is JSON if it can be read so, else text.
        named: Parameters with an option of their own, which wins; None says nothing.

    Raises:
        ConfigurationError: A pair without a key.
    """
    from chutes_opencode.request import Params

    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise ConfigurationError(raw_message=f"--params {pair!r} is not of the form key=value")
        values[key] = _json_or_text(value)
    values |= {name: value for name, value in named.items() if value is not None}
    return Params().updated(values)


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def read_schema(path: Path) -> Any:
    """Return the schema in a file.

    Raises:
        ConfigurationError: It cannot be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"is not JSON: {error}"
        raise ConfigurationError(raw_message=f"--schema {path}: {reason}") from error


def read_limits(
    max_requests: int | None, max_tokens: int | None, max_cost_usd: float | None
) -> Limits:
    """Return the limits; None leaves one as it is by default."""
    from chutes_opencode.request import Limits

    limits = Limits(max_tokens=max_tokens, max_cost_usd=max_cost_usd)
    return limits if max_requests is None else replace(limits, max_requests=max_requests)


def _answer(
    llm: ChutesOpenCodeLLM,
    message: str,
    arguments: PromptArguments,
    *,
    as_json: bool,
    thinking: bool,
) -> None:
    """Ask, and print the answer in the form that its reader wants."""
    from rich.console import Console

    from chutes_opencode.cli.live import LivePrinter, summary, working

    console = Console(stderr=True)
    structured = arguments.get("output_schema") is not None
    live = sys.stdout.isatty() and not (as_json or structured)
    if live:
        result = _streamed(
            llm, message, arguments, LivePrinter(sys.stdout, console, thinking=thinking)
        )
    else:
        with working(console), _partial_text(told=as_json):
            result = llm.prompt(message, **arguments).raise_for_error()
    if as_json:
        print_json({"ok": True, **result_fields(result), "error": None})
    elif structured:
        typer.echo(json.dumps(result.structured, ensure_ascii=False))
    elif not live:
        typer.echo(result.result, nl=not result.result.endswith("\n"))
    if thinking and not live:
        _show_thoughts(result)
    if result.replayed:
        say("replayed: every model answer comes from --cache, the provider was not asked")
    if arguments.get("keep_session"):
        say(f"kept: --session {result.session_id}")
    if console.is_terminal:
        say(summary(result))


@contextmanager
def _partial_text(*, told: bool) -> Iterator[None]:
    """Show on stderr what a failed prompt had written; stdout is for whole answers.

    Args:
        told: Whether the reader gets it anyway.
    """
    try:
        yield
    except OpenCodeError as error:
        if error.result is not None and error.result.result and not told:
            say(f"the text until then:\n{error.result.result}")
        raise


def _streamed(
    llm: ChutesOpenCodeLLM, message: str, arguments: PromptArguments, printer: LivePrinter
) -> QueryResult:
    """Show the prompt while it runs."""
    from contextlib import closing

    from chutes_opencode.events import Done

    stream = cast("Generator[Event]", llm.stream(message, **arguments))
    with closing(stream) as events, printer.watching() as show:
        for event in events:
            show(event)
            if isinstance(event, Done):
                return event.result.raise_for_error()
    raise AssertionError("a stream ends with Done or an error")


def _show_thoughts(result: QueryResult) -> None:
    from chutes_opencode.results import ReasoningPart

    for turn in result.transcript.turns:
        for part in turn.parts:
            if isinstance(part, ReasoningPart):
                say(part.text)
