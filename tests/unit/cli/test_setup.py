"""`setup`: have an opencode, fetch it only when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.opencode import binary, install
from chutes_opencode.opencode.binary import TESTED_VERSION, Binary, installed_binary
from chutes_opencode.settings import load_settings

Run = Callable[..., Any]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Homes into which npm would have installed."""
    homes: list[Path] = []

    def fetch(home: Path, *, env: dict[str, str], progress: Callable[[str], None]) -> Binary:
        progress("fetching")
        homes.append(home)
        return Binary(installed_binary(home / "opencode", TESTED_VERSION), TESTED_VERSION)

    monkeypatch.setattr(install, "install", fetch)
    return homes


def put(path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\0")
    path.chmod(0o755)
    monkeypatch.setattr(binary, "ask_version", lambda path, search_path: version)
    return path


def test_without_opencode_it_is_fetched(run: Run, fetched: list[Path]) -> None:
    result = run("setup")

    assert result.exit_code == 0
    assert fetched == [load_settings().home]
    assert result.stdout.startswith(f"opencode {TESTED_VERSION} at ")
    assert "fetching" in result.stderr


def test_one_on_path_is_enough(
    run_json: Run, home: Path, fetched: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(home.parent / "bin" / "opencode", TESTED_VERSION, monkeypatch)

    assert run_json("setup") == (
        0,
        {
            "ok": True,
            "path": str(path),
            "version": TESTED_VERSION,
            "installed": False,
            "warning": None,
        },
    )
    assert fetched == []


def test_a_newer_one_on_path_is_used_with_a_warning(
    run: Run, home: Path, fetched: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home.parent / "bin" / "opencode", "9.0.0", monkeypatch)

    result = run("setup")

    assert "warning: opencode 9.0.0 is newer" in result.stderr
    assert fetched == []


def test_one_on_path_that_is_too_old_is_replaced_for_us(
    run: Run, home: Path, fetched: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(home.parent / "bin" / "opencode", "1.15.13", monkeypatch)

    result = run("setup")

    assert result.exit_code == 0
    assert "oldest supported" in result.stderr
    assert len(fetched) == 1


def test_an_installed_one_of_another_version_is_renewed(
    run: Run, fetched: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = load_settings().home / "opencode"
    put(installed_binary(folder, "1.18.999"), "1.18.999", monkeypatch)

    run("setup")

    assert len(fetched) == 1


def test_a_named_one_that_cannot_run_is_an_error(
    run_json: Run, fetched: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_BIN", "/nowhere/opencode")

    code, shown = run_json("setup")

    assert (code, shown["error"]["type"]) == (2, "OpenCodeNotFoundError")
    assert fetched == []


def test_without_npm_one_line_says_how_else(run: Run) -> None:
    result = run("setup")

    assert result.exit_code == 2
    assert "there is no npm on PATH" in result.stderr
    assert "OPENCODE_BIN" in result.stderr.splitlines()[-1]
