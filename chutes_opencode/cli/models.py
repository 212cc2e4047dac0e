"""`chutes-opencode models`: which models there are, what they cost, what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode.cli import export, sync
from chutes_opencode.cli.completion import complete_models
from chutes_opencode.cli.lookup import (
    listing_fields,
    look_up,
    open_catalog,
    resolve,
    tell_source,
)
from chutes_opencode.cli.output import JsonOption, SimulateOption, print_json, say
from chutes_opencode.cli.session import ProviderOption, waiting
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.catalog.catalog import Catalog
    from chutes_opencode.catalog.models import Model

app = typer.Typer(
    help="Show the models of a provider, their prices and limits.", no_args_is_help=True
)

SORT_HELP = "id, input_price, output_price, context or output."

MarkdownOption = Annotated[
    bool, typer.Option("--markdown", help="Print the table as Markdown, with every column.")
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="Id, with or without the provider's prefix.",
        autocompletion=complete_models,
        show_default=False,
    ),
]
ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="ID…",
        help="Ids, with or without the provider's prefix.",
        autocompletion=complete_models,
        show_default=False,
    ),
]


def list_models(
    match: Annotated[
        list[str] | None,
        typer.Option("--match", metavar="WILDCARD", help="Like Qwen/* or !*-TEE; repeatable."),
    ] = None,
    search: Annotated[str, typer.Option(metavar="WORDS", help="Words in the id or name.")] = "",
    feature: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="tools, reasoning, …; repeatable.")
    ] = None,
    modality: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What it takes: image, …; repeatable.")
    ] = None,
    max_price: Annotated[
        float | None, typer.Option(min=0, metavar="USD", help="Most for 1M tokens of input.")
    ] = None,
    max_output_price: Annotated[
        float | None, typer.Option(min=0, metavar="USD", help="Most for 1M tokens of output.")
    ] = None,
    min_context: Annotated[
        int | None, typer.Option(min=0, metavar="TOKENS", help="Least context.")
    ] = None,
    confidential: Annotated[
        bool | None,
        typer.Option(
            "--confidential/--no-confidential",
            help="Only with, or only without, confidential compute.",
            show_default=False,
        ),
    ] = None,
    sort: Annotated[str | None, typer.Option(metavar="KEY", help=SORT_HELP)] = None,
    desc: Annotated[bool, typer.Option("--desc", help="Sort the other way round.")] = False,
    provider: ProviderOption = "chutes",
    markdown: MarkdownOption = False,
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """List the models, with prices in USD per 1M tokens.

    A narrow terminal shows the columns that it has room for; a pipe always gets them all.
    """
    from chutes_opencode.catalog.selection import Selection, select, sort_models
    from chutes_opencode.cli.model_views import model_columns

    selection = Selection(
        wildcards=tuple(match or ()),
        features=tuple(feature or ()),
        input_modalities=tuple(modality or ()),
        max_input_price=max_price,
        max_output_price=max_output_price,
        min_context=min_context,
        confidential=confidential,
        search=search,
    )
    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        listing = look_up(catalog)
    models: Sequence[Model] = select(listing, selection, catalog.provider.id)
    if sort is not None:
        models = sort_models(models, sort, descending=desc)
    elif desc:
        models = models[::-1]
    if as_json:
        print_json(
            {"ok": True, **listing_fields(listing, catalog), "models": _fields(models, catalog)}
        )
        return
    tell_source(listing, catalog, shown=len(models))
    if models:
        show_columns(model_columns(models, catalog.provider.id), markdown=markdown)


def show(
    model: ModelArgument,
    provider: ProviderOption = "chutes",
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print all that is known of one model."""
    from chutes_opencode.cli.model_views import model_details, model_fields
    from chutes_opencode.cli.output import print_table

    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        listing = look_up(catalog)
        found = resolve(catalog, model)
    if as_json:
        print_json(
            {
                "ok": True,
                **listing_fields(listing, catalog),
                "model": model_fields(found, catalog.provider.id),
            }
        )
        return
    tell_source(listing, catalog)
    print_table(("", ""), model_details(found, catalog.provider.id))


def compare(
    models: ModelsArgument,
    provider: ProviderOption = "chutes",
    markdown: MarkdownOption = False,
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put models side by side."""
    from chutes_opencode.cli.model_views import comparison_columns

    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        listing = look_up(catalog)
        found = _resolved(catalog, models)
    if as_json:
        print_json(
            {"ok": True, **listing_fields(listing, catalog), "models": _fields(found, catalog)}
        )
        return
    tell_source(listing, catalog)
    show_columns(comparison_columns(found, catalog.provider.id), markdown=markdown)


def estimate(
    input_tokens: Annotated[
        int, typer.Option(min=0, metavar="N", help="Tokens of input, cached ones included.")
    ],
    output_tokens: Annotated[
        int, typer.Option(min=0, metavar="N", help="Tokens of output, reasoning included.")
    ],
    cached_tokens: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many of the input tokens are cached.")
    ] = 0,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID…]",
            help="Ids; none: every model.",
            autocompletion=complete_models,
            show_default=False,
        ),
    ] = None,
    provider: ProviderOption = "chutes",
    markdown: MarkdownOption = False,
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a use of so many tokens costs, cheapest first."""
    from chutes_opencode.catalog.comparison import estimate_cost
    from chutes_opencode.cli.model_views import estimate_columns

    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        listing = look_up(catalog)
        asked = _resolved(catalog, models or ())
    try:
        costs = [
            (model, estimate_cost(model, input_tokens, output_tokens, cached_tokens))
            for model in asked or listing.models
        ]
    except ValueError as error:
        hint = "--cached-tokens are part of --input-tokens."
        raise ConfigurationError(raw_message=str(error), hint=hint) from error
    costs.sort(key=lambda pair: (pair[1] is None, pair[1] or 0.0, pair[0].id))
    tokens = input_tokens + output_tokens
    if as_json:
        rows = [_cost_fields(model, cost, tokens) for model, cost in costs]
        print_json({"ok": True, **listing_fields(listing, catalog), "models": rows})
        return
    tell_source(listing, catalog)
    show_columns(estimate_columns(costs, catalog.provider.id, tokens), markdown=markdown)


def _cost_fields(model: Model, cost: float | None, tokens: int) -> dict[str, Any]:
    fits = None if model.context_length is None else tokens <= model.context_length
    return {"id": model.id, "cost_usd": None if cost is None else round(cost, 9), "fits": fits}


def warmup(
    model: ModelArgument,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Follow it so long; 0: only ask.")
    ] = 0.0,
    provider: ProviderOption = "chutes",
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask for an instance of a cold model, so that the next prompt need not wait for one."""
    from chutes_opencode.catalog.account import warm_up
    from chutes_opencode.cli.account import management_api

    with open_catalog(provider, simulate=simulate) as catalog, waiting():
        api = management_api(catalog.settings, catalog.provider.name)
        found = resolve(catalog, model)
        if found.chute_id is None:
            raise ConfigurationError(
                raw_message=f"the list names no chute for {found.id}",
                hint="Name one model of `chutes-opencode models list`.",
            )
        told = warm_up(api, found.chute_id, wait_seconds=wait)
    if as_json:
        fields = {"id": found.id, "chute_id": found.chute_id}
        print_json({"ok": True, **fields, "status": told.status, "log": told.log})
        return
    print(f"{found.id}: {told.status}" + (f" ({told.log})" if told.log else ""))
    if not told.is_hot:
        say("It was asked for; a prompt answers as soon as it is hot (--wait follows it).")


def show_columns(columns: Sequence[Any], *, markdown: bool) -> None:
    """Print a table in the form that was asked for."""
    from chutes_opencode.cli.tables import print_columns, print_markdown

    (print_markdown if markdown else print_columns)(columns)


def _resolved(catalog: Catalog, names: Sequence[str]) -> list[Model]:
    """Return the models that names mean, each once, however often and however it is named."""
    return list({model.id: model for model in (resolve(catalog, name) for name in names)}.values())


def _fields(models: Sequence[Model], catalog: Catalog) -> list[dict[str, Any]]:
    from chutes_opencode.cli.model_views import model_fields

    return [model_fields(model, catalog.provider.id) for model in models]


# In the order in which `--help` shows them.
app.command("list")(list_models)
app.command("show")(show)
app.command("compare")(compare)
app.command("estimate")(estimate)
app.command("refresh")(sync.refresh)
app.command("diff")(sync.diff)
app.command("clear-cache")(sync.clear_cache)
app.command("warmup")(warmup)
app.command("export")(export.export)
