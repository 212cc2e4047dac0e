"""`chutes-opencode config`: show the settings, store the key, check the files."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chutes_opencode.cli.output import JsonOption, print_json, print_table, say
from chutes_opencode.errors import AuthenticationError, ConfigurationError
from chutes_opencode.masking import MASK

if TYPE_CHECKING:
    from chutes_opencode.settings import Settings

app = typer.Typer(help="Show, check and write the settings.", no_args_is_help=True)


@app.command()
def show(as_json: JsonOption = False) -> None:
    """Print every setting with its value and where it comes from; the key is masked."""
    from chutes_opencode.settings import load_settings

    rows = describe(load_settings())
    if as_json:
        print_json({name: {"value": value, "source": source} for name, value, source in rows})
    else:
        print_table(
            ("setting", "value", "source"), [(name, _cell(value), at) for name, value, at in rows]
        )


def describe(settings: Settings) -> list[tuple[str, Any, str]]:
    """Return (field, value as JSON has it, source) of every setting, the key masked."""
    from chutes_opencode.settings import FIELDS

    values = settings.model_dump(mode="json", exclude={"sources", "api_token"})
    values["api_token"] = MASK if settings.api_token else None
    return [(name, values[name], settings.sources.get(name, "argument")) for name in FIELDS]


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(value) if isinstance(value, list) else str(value)


@app.command()
def validate(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files to check; none: the project's and yours.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check settings files: form, names and values."""
    from chutes_opencode.settings import check_file, project_file, user_file

    paths = files or [path for path in (project_file(), user_file()) if path.exists()]
    failure: ConfigurationError | None = None
    checked = []
    for path in paths:
        try:
            fields = check_file(path)
            checked.append({"path": str(path), "ok": True, "fields": list(fields)})
        except ConfigurationError as error:
            failure = failure or error
            checked.append({"path": str(path), "ok": False, "error": error.raw_message})
    if as_json:
        print_json({"ok": failure is None, "files": checked})
        raise typer.Exit(2 if failure else 0)
    for row in checked:
        if row["ok"]:
            print(f"{row['path']}: ok")
        else:
            say(f"error: {row['error']}")
    if failure:
        say(f"fix: {failure.hint}")
        raise typer.Exit(2)
    if not checked:
        say("There is no settings file; the defaults and the environment are used.")


@app.command()
def init(
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read the key from stdin, for scripts.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another key that is stored.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask for the key, check it, and store it in your config.toml for yourself alone."""
    from chutes_opencode.cli.account import check_key
    from chutes_opencode.settings import load_settings, user_file

    key = read_key(from_stdin=token_stdin)
    settings = load_settings(api_token=key)
    token = settings.require_token()
    checked = check_key(settings)
    if checked.verdict == "refused":
        raise AuthenticationError(raw_message=f"the key was not stored: {checked.detail}")
    path = user_file()
    store_key(path, token, force=force)
    if as_json:
        print_json({"ok": True, "path": str(path), "key": checked.verdict})
        return
    if checked.verdict == "unknown":
        say(f"warning: the key was stored without a check: {checked.detail}")
    print(f"The key is stored in {path} ({checked.verdict}).")


def read_key(*, from_stdin: bool) -> str:
    """Return the key that the user gives, without showing it.

    Raises:
        AuthenticationError: Nothing was given.
        ConfigurationError: There is no terminal to ask at.
    """
    if from_stdin:
        key = sys.stdin.read()
    elif _at_terminal():
        key = str(typer.prompt("Chutes API key (hidden)", hide_input=True, err=True))
    else:
        raise ConfigurationError(
            raw_message="there is no terminal to ask for the key at",
            hint="Pipe the key in: `… | chutes-opencode config init --token-stdin`.",
        )
    if not key.strip():
        raise AuthenticationError(raw_message="no key was given")
    return key.strip()


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def store_key(path: Path, token: str, *, force: bool) -> None:
    """Write the key into a settings file, readable for the user alone; the rest of it stays.

    Raises:
        ConfigurationError: The file holds another key, is malformed, or cannot be written.
    """
    from chutes_opencode.settings import stored_in_file

    before = stored_in_file(path)
    if before not in (None, token) and not force:
        raise ConfigurationError(
            raw_message=f"{path} holds another key",
            hint="Add --force to replace it.",
        )
    try:
        text = with_key(path.read_text(encoding="utf-8-sig") if path.exists() else "", token)
        _check_key_line(path, text, token)
        write_private(path.resolve(), text)
    except OSError as error:
        raise ConfigurationError(
            raw_message=f"{path} cannot be written: {error.strerror}",
            hint="Make its folder writable, or set CHUTES_API_TOKEN instead.",
        ) from error


def _check_key_line(path: Path, text: str, token: str) -> None:
    """Refuse to write what would not be read back as this key."""
    try:
        written = tomllib.loads(text).get("api_token")
    except tomllib.TOMLDecodeError:
        written = None
    if written != token:
        raise ConfigurationError(
            raw_message=f"{path}: its api_token could not be replaced",
            hint="Write api_token as one line of its own, or remove it, and try again.",
        )


def with_key(text: str, token: str) -> str:
    """Return the TOML text with the key set: in its line where it has one, else at the top."""
    line = f"api_token = {json.dumps(token)}"  # a JSON string of ASCII is a TOML string
    pattern = re.compile(r"^[ \t]*[\"']?(api_token|apiToken)[\"']?[ \t]*=.*$", re.MULTILINE)
    if pattern.search(text):
        return pattern.sub(lambda _: line, text, count=1)
    return f"{line}\n{text}"


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, with mode 0600 from its first moment on."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
