"""The root command: registers all others, turns errors into exit codes."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from chutes_opencode.cli import (
    account,
    batch,
    config,
    doctor,
    models,
    prompt,
    providers,
    setup,
    simulator,
)
from chutes_opencode.cli.output import FAILED, INTERRUPTED, print_json, report

# Not declared at each command: a flag of the whole line, wherever it stands.
DEBUG = "--debug"
JSON = "--json"


class Root(TyperGroup):
    """The border at which every failure becomes a message and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take `--debug` out of the line; note whether `--json` is in it."""
        end = args.index("--") if "--" in args else len(args)
        flags = args[:end]
        ctx.meta[DEBUG] = DEBUG in flags
        ctx.meta[JSON] = JSON in flags
        return super().parse_args(ctx, [arg for arg in flags if arg != DEBUG] + args[end:])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; no failure leaves a traceback unless `--debug` asks for it."""
        as_json = ctx.meta[JSON]
        try:
            return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):
            raise
        except (KeyboardInterrupt, typer.Abort):
            if as_json:
                print_json({"ok": False, "error": {"type": "KeyboardInterrupt"}})
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if hasattr(error, "format_message"):  # wrong usage: typer explains it, exit code 2
                _report_usage(error, as_json=as_json)
                raise
            code = report(error, as_json=as_json, debug=ctx.meta[DEBUG])
            raise typer.Exit(code or FAILED) from None


def _report_usage(error: Any, *, as_json: bool) -> None:
    if as_json:
        fields = {"type": "UsageError", "message": error.format_message(), "exit_code": 2}
        print_json({"ok": False, "error": fields})


app = typer.Typer(
    cls=Root,
    name="chutes-opencode",
    help="Run the opencode agent on Chutes models, dependably.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("chutes-opencode"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show tracebacks; may stand anywhere in the line.")
    ] = False,
) -> None:
    """Run the opencode agent on Chutes models, dependably."""


# All commands, in the order in which `--help` shows them.
app.command("setup")(setup.setup)
app.command("prompt")(prompt.prompt)
app.add_typer(batch.app, name="batch")
app.add_typer(models.app, name="models")
app.add_typer(providers.app, name="providers")
app.command("account")(account.account)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")
app.command("simulator")(simulator.simulator)


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="chutes-opencode")
