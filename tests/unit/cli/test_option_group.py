"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from chutes_opencode.cli.option_group import grouped


@dataclass(frozen=True, kw_only=True)
class Common:
    """What both commands are told."""

    items: Annotated[str, typer.Argument()]
    limit: Annotated[int | None, typer.Option("--most", help="So many.")] = None


def first(*, common: Common, fast: bool = False) -> None:
    """Do it first."""
    typer.echo(f"{common} {fast}")


def second(*, out: Annotated[str, typer.Option("-o")] = "here", common: Common) -> None:
    """Do it then."""
    typer.echo(f"{common} {out}")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    for command in (first, second):
        app.command()(grouped(command))
    return app


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("first a --fast", f"{Common(items='a')} True"),
        ("first a --most 3", f"{Common(items='a', limit=3)} False"),
        ("second a", f"{Common(items='a')} here"),
        ("second -o there --most 3 a", f"{Common(items='a', limit=3)} there"),
    ],
)
def test_a_command_is_told_the_group_and_what_is_its_own(
    app: typer.Typer, line: str, told: str
) -> None:
    ended = CliRunner().invoke(app, line.split())

    assert ended.output.strip() == told


def test_what_the_group_cannot_do_without_is_asked_for(app: typer.Typer) -> None:
    ended = CliRunner().invoke(app, ["first"])

    assert ended.exit_code == 2
    assert "ITEMS" in ended.output.upper()


def test_help_shows_both_in_the_order_of_the_commands_parameters(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["second", "--help"]).output

    assert "Do it then." in shown
    assert shown.index("-o") < shown.index("--most") < shown.index("So many.")
