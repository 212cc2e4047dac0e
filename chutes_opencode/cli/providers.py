"""`chutes-opencode providers`: who offers models, whether there is a key, whether they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode.cli.completion import complete_providers
from chutes_opencode.cli.output import (
    JsonOption,
    SimulateOption,
    counted,
    error_fields,
    exit_code,
    print_json,
    print_table,
    say,
)
from chutes_opencode.cli.session import (
    DEFAULT_PROVIDER,
    SIMULATED_MODEL,
    provider_settings,
    waiting,
)
from chutes_opencode.errors import AuthenticationError, OpenCodeError

if TYPE_CHECKING:
    from chutes_opencode.catalog.providers import Provider
    from chutes_opencode.catalog.speed import Probe
    from chutes_opencode.settings import Settings

app = typer.Typer(help="Show the providers of models, and try them.", no_args_is_help=True)

ProviderArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="A provider's id.", autocompletion=complete_providers, show_default=False
    ),
]


@app.command("list")
def list_providers(as_json: JsonOption = False) -> None:
    """List every provider: the built-in ones and those of providers.toml."""
    from chutes_opencode.catalog.providers import all_providers
    from chutes_opencode.cli.tables import Column, print_columns
    from chutes_opencode.settings import load_settings

    settings = load_settings()
    providers = all_providers(files=settings.provider_files())
    rows = [describe(provider, settings) for provider in providers]
    if as_json:
        print_json({"ok": True, "providers": rows})
        return
    print_columns(
        [
            Column("id", [row["id"] for row in rows]),
            Column("name", [row["name"] for row in rows], rank=1),
            Column(
                "key",
                [key_words(row["key"], provider) for row, provider in _paired(rows, providers)],
            ),
            Column("wire", [row["wire"] for row in rows], rank=2),
            Column(
                "base URL", [_url(row, entry) for row, entry in _paired(rows, providers)], rank=3
            ),
            Column("entry", [row["entry"] for row in rows], rank=4),
        ]
    )


def _paired(
    rows: Sequence[dict[str, Any]], providers: Sequence[Provider]
) -> Sequence[tuple[dict[str, Any], Provider]]:
    return list(zip(rows, providers, strict=True))


def _url(row: dict[str, Any], provider: Provider) -> str:
    missing = f"missing: set {provider.base_url_env[0]}" if provider.base_url_env else "missing"
    return row["base_url"] or missing


@app.command()
def show(provider: ProviderArgument, as_json: JsonOption = False) -> None:
    """Print all that the registry says of one provider, and which URL and key it would get."""
    from chutes_opencode.catalog.providers import FIELDS, find_provider
    from chutes_opencode.settings import load_settings

    settings = load_settings()
    entry = find_provider(provider, files=settings.provider_files())
    told = describe(entry, settings)
    fields = entry.model_dump(mode="json", include=set(FIELDS))
    fields["quirks"] = sorted(fields["quirks"])
    if as_json:
        print_json({"ok": True, **told, "registry": fields})
        return
    lines = [
        ("id", entry.id),
        ("key", key_words(told["key"], entry)),
        ("base URL in use", told["base_url"] or f"none: {told['problem']}"),
        ("from", told["base_url_from"] or "-"),
        ("entry", entry.source),
        ("driven", wire_words(entry)),
    ]
    lines += [(name, _cell(fields[name])) for name in FIELDS]
    print_table(("", ""), lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {text}" for name, text in value.items()) or "-"
    return ", ".join(value) or "-" if isinstance(value, list) else str(value or "-")


def wire_words(provider: Provider) -> str:
    """Return in words how prompts reach a provider."""
    if provider.wire == "openai":
        return "OpenAI-compatible"
    return f"by opencode's own package {provider.npm}, without our relay (relay=False)"


def describe(provider: Provider, settings: Settings) -> dict[str, Any]:
    """Return what a program wants to know of a provider; the key itself is no part of it."""
    told: dict[str, Any] = {
        "id": provider.id,
        "name": provider.name,
        "wire": provider.wire,
        "entry": provider.source,
        "base_url": None,
        "base_url_from": None,
        "key": {"needed": provider.needs_key, "set": False, "from": None},
        "problem": None,
    }
    try:
        own = settings.for_provider(provider)
    except OpenCodeError as error:
        told["problem"] = error.raw_message
        return told
    source = own.sources["base_url"]
    told["base_url"] = own.base_url
    told["base_url_from"] = provider.source if source == "default" else source
    if own.api_token is not None:
        told["key"] |= {"set": True, "from": own.sources["api_token"]}
    return told


def key_words(key: dict[str, Any], provider: Provider) -> str:
    """Return in words whether there is a key, or how to set one."""
    if key["set"]:
        return f"set, from {key['from']}"
    if not key["needed"]:
        return "not needed"
    return f"missing: set {provider.key_env[0]}" if provider.key_env else "missing"


@app.command("test")
def try_providers(
    providers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID…]",
            help="Ids; none: chutes.",
            autocompletion=complete_providers,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to ask; none: a known or the cheapest one.")
    ] = None,
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask for the models, then one model for a few tokens; it may cost a tiny bit.

    Says whether the key is refused, nobody listens, there are no models, or how fast it answers.
    The exit code is that of the first provider that does not.
    """
    probes: dict[str, Probe] = {}
    for name in dict.fromkeys(providers or [DEFAULT_PROVIDER]):
        with waiting():
            probes[name] = try_provider(name, model, simulate=simulate)
        if not as_json:
            _print_probe(name, probes[name])
    code = next((exit_code(told.error) for told in probes.values() if told.error), 0)
    if as_json:
        rows = [probe_fields(name, told) for name, told in probes.items()]
        print_json({"ok": code == 0, "exit_code": code, "providers": rows})
    raise typer.Exit(code)


def try_provider(name: str, model: str | None, *, simulate: bool) -> Probe:
    """Try one provider; that it is unknown is raised, what it does wrong is told.

    Raises:
        ConfigurationError: There is no such provider, or it has no base URL.
    """
    from chutes_opencode.catalog.names import bare
    from chutes_opencode.catalog.probe import probe
    from chutes_opencode.catalog.speed import Probe

    with provider_settings(name, simulate=simulate) as (entry, settings):
        prefer = [*settings.extra_models, *entry.default_models]
        if name == DEFAULT_PROVIDER and settings.default_model:
            prefer.insert(0, bare(entry.id, settings.default_model))
        asked = model or (SIMULATED_MODEL if simulate else None)
        try:
            key = settings.key_or_none()
        except AuthenticationError as error:
            return Probe("no_key", detail=error.raw_message, error=error)
        return asyncio.run(probe(entry, settings.base_url, key, model=asked, prefer=prefer))


_VERDICTS = {
    "ok": "ok",
    "slow": "slow",
    "no_key": "no key",
    "key_refused": "key refused",
    "refused": "refused",
    "failing": "failing",
    "unreachable": "unreachable",
    "no_models": "no models",
}


def _print_probe(name: str, told: Probe) -> None:
    listed = "" if told.models is None else f"{counted(told.models, 'model')}; "
    asked = f"{told.model}: " if told.model else ""
    print(f"{name}: {_VERDICTS[told.verdict]}: {listed}{asked}{told.detail}")
    if told.error is None:
        for problem in told.problems:
            say(f"warning: {problem}")
    else:
        say(f"fix {name}: {told.error.hint}")


def probe_fields(name: str, told: Probe) -> dict[str, Any]:
    """Return a test as JSON has it."""
    return {
        "id": name,
        "verdict": told.verdict,
        "models": told.models,
        "model": told.model or None,
        "first_token_s": None if told.first_token_s is None else round(told.first_token_s, 3),
        "tokens_per_s": None if told.tokens_per_s is None else round(told.tokens_per_s, 1),
        "detail": told.detail,
        "problems": list(told.problems),
        "error": None if told.error is None else error_fields(told.error),
    }
