"""`chutes-opencode doctor`: look at everything that a prompt needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from chutes_opencode.cli.checks import (
    Check,
    check_account,
    check_base_url,
    check_default_model,
    check_file_mode,
    check_folder,
    check_key_destination,
    check_live,
    check_models,
    check_npm,
    check_opencode,
    check_platform,
    check_providers,
    check_python,
    check_workspaces,
    failed,
)
from chutes_opencode.cli.lookup import open_catalog
from chutes_opencode.cli.output import JsonOption, SimulateOption, print_json, print_table
from chutes_opencode.cli.session import (
    DEFAULT_PROVIDER,
    SIMULATED_MODEL,
    ProviderOption,
    waiting,
)
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.catalog.catalog import Catalog

STYLES = {"pass": "ok", "warn": "warn", "fail": "FAIL"}


def doctor(
    live: Annotated[
        bool, typer.Option("--live", help="Also send one small prompt; it may cost a little.")
    ] = False,
    provider: ProviderOption = DEFAULT_PROVIDER,
    simulate: SimulateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check Python, opencode, the key, the models and the folders; say how to fix each."""
    with waiting():
        checks = list(examine(live=live, simulate=simulate, provider_id=provider))
    code = next((check.exit_code for check in checks if check.status == "fail"), 0)
    if as_json:
        print_json({"ok": code == 0, "exit_code": code, "checks": [c.fields() for c in checks]})
    else:
        rows = [(STYLES[c.status], c.name, c.detail) for c in checks]
        print_table(("", "check", "found"), rows)
        for check in checks:
            if check.fix:
                print(f"fix {check.name}: {check.fix}")
    raise typer.Exit(code)


def examine(*, live: bool, simulate: bool, provider_id: str = DEFAULT_PROVIDER) -> Iterator[Check]:
    """Yield every line of the report, machine first."""
    from chutes_opencode.settings import inherited_environment

    search_path = inherited_environment().get("PATH", "")
    yield check_python()
    yield check_platform()
    yield check_npm(search_path)
    try:
        with open_catalog(provider_id, simulate=simulate) as catalog:
            settings = catalog.settings
            yield check_opencode(settings, search_path)
            yield check_providers(settings)
            yield check_account(settings)
            yield from check_key_destination(settings)
            yield from _check_files()
            yield from _check_catalog(catalog)
            yield check_folder("home folder", settings.home, "CHUTES_OPENCODE_HOME")
            yield check_folder("temporary folder", settings.temp_dir, "TMPDIR")
            yield check_workspaces(settings.temp_dir)
            if live:
                model = live_model(catalog, simulate=simulate)
                yield check_live(settings, model=model, provider=provider_id)
    except ConfigurationError as error:
        yield failed("settings", error)


def _check_catalog(catalog: Catalog) -> Iterator[Check]:
    listing = catalog.refresh()
    yield check_base_url(catalog, listing)
    yield check_models(catalog, listing)
    if catalog.provider.id == DEFAULT_PROVIDER:
        yield from check_default_model(catalog)


def live_model(catalog: Catalog, *, simulate: bool) -> str | None:
    """Return the model of the test prompt; None: the default one, which is one of Chutes."""
    from chutes_opencode.catalog.probe import choose_model

    if simulate:
        return SIMULATED_MODEL
    if catalog.provider.id == DEFAULT_PROVIDER:
        return None
    return choose_model(catalog.models(), catalog.provider.default_models)


def _check_files() -> Iterator[Check]:
    from chutes_opencode.settings import project_file, user_file

    for path in (project_file(), user_file()):
        yield from check_file_mode(path)
