"""`chutes-opencode simulator`: the Chutes API on this machine, free and deterministic."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chutes_opencode.cli.output import INTERRUPTED, JsonOption, print_json, print_table, say
from chutes_opencode.errors import ConfigurationError

if TYPE_CHECKING:
    from chutes_opencode.simulator import Simulator


def simulator(
    scenario: Annotated[
        Path | None, typer.Option(help="TOML or JSON file that says what fails, and how.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    list_faults: Annotated[
        bool, typer.Option("--list-faults", help="Print the names of all faults and exit.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve a Chutes API on 127.0.0.1 until Ctrl-C.

    A model `sim/fault/NAME` fails in the way that `--list-faults` tells.
    """
    if list_faults:
        _print_faults(as_json=as_json)
        return
    from chutes_opencode.simulator import ScenarioError, run_forever

    until = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: until.set())
    try:
        run_forever(
            scenario, port=port, on_ready=lambda it: _announce(it, as_json=as_json), until=until
        )
    except KeyboardInterrupt:  # how it is meant to end: nothing more to tell
        raise typer.Exit(INTERRUPTED) from None
    except ScenarioError as error:
        raise ConfigurationError(raw_message=str(error), hint="Correct the scenario.") from error
    except OSError as error:
        hint = "Choose another port, or 0 for a free one; check the scenario's path."
        raise ConfigurationError(raw_message=str(error), hint=hint) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_faults(*, as_json: bool) -> None:
    from chutes_opencode.simulator import FAULTS

    if as_json:
        print_json({"faults": [{"name": f.name, "about": f.about} for f in FAULTS.values()]})
    else:
        print_table(("fault", "what happens"), [(f.name, f.about) for f in FAULTS.values()])


def _announce(running: Simulator, *, as_json: bool) -> None:
    """Print what a client needs; the key opens nothing but this simulator, so it is shown."""
    import json

    fields = {"base_url": running.base_url, "api_token": running.api_token}
    if as_json:
        typer.echo(json.dumps({**fields, "management_url": running.management_url}))
        return
    typer.echo(f"export CHUTES_BASE_URL={running.base_url}")
    typer.echo(f"export CHUTES_API_TOKEN={running.api_token}")
    say("The simulator is running; Ctrl-C ends it.")
