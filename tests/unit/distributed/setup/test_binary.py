"""Which opencode a worker uses; nothing of Ray's runs here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode.distributed.setup import binary as module
from chutes_opencode.distributed.setup.binary import MACHINE, ShippedBinary, worker_binary
from chutes_opencode.errors import ConfigurationError, OpenCodeNotFoundError
from chutes_opencode.opencode.binary import Binary
from chutes_opencode.settings import Settings, load_settings

DRIVERS, OTHER = "1.18.33", "1.17.5"
CONTENT = b"#!/bin/sh\necho " + DRIVERS.encode()


class Shipped(ShippedBinary):
    """The driver's copy, as if it were in an object store."""

    def write(self, path: Path) -> None:
        path.write_bytes(CONTENT)


def shipped(machine: tuple[str, str] = MACHINE, version: str = DRIVERS) -> ShippedBinary:
    return Shipped(version, machine, None)


def said(path: Path, _search_path: str) -> str:
    """What a program says that only echoes a version."""
    return path.read_text().split()[-1]


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home")


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Say which opencode the worker's machine has of its own."""

    def put(version: str | None) -> None:
        def found(_settings: Settings) -> Binary:
            if version is None:
                raise OpenCodeNotFoundError(raw_message="there is no opencode on PATH")
            return Binary(Path("/opt/opencode"), version)

        monkeypatch.setattr(module, "find_own", found)

    return put


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that were fetched from npm."""
    fetched: list[str] = []

    def install(home: Path, *, env: object, version: str) -> Binary:
        fetched.append(version)
        return Binary(home / "from-npm", version)

    monkeypatch.setattr(module, "install", install)
    return fetched


Find = Callable[[str | None], None]


@pytest.mark.parametrize("version", [DRIVERS, ""])
def test_the_workers_own_is_used_if_it_is_the_drivers_version_or_the_driver_has_none(
    own: Settings, find: Find, npm: list[str], version: str
) -> None:
    find(DRIVERS)

    used = worker_binary(version, shipped(), own, install_missing=True)

    assert used == Binary(Path("/opt/opencode"), DRIVERS)
    assert npm == []


@pytest.mark.parametrize("has", [None, OTHER])
def test_else_the_drivers_copy_is_written_once(
    own: Settings, find: Find, npm: list[str], has: str | None
) -> None:
    find(has)

    used = worker_binary(DRIVERS, shipped(), own, install_missing=True, ask=said)
    again = worker_binary(DRIVERS, None, own, ask=said)

    assert used == again == Binary(own.home / "opencode" / DRIVERS / "opencode", DRIVERS)
    assert used.path.read_bytes() == CONTENT
    assert used.path.stat().st_mode & 0o777 == 0o755
    assert npm == []
    left = {path.name for path in (own.home / "opencode").iterdir()}
    assert left <= {DRIVERS, ".lock"}


@pytest.mark.parametrize("copy", [None, shipped(machine=("plan9", "mips"))])
def test_npm_is_asked_last_and_only_if_that_was_allowed(
    own: Settings, find: Find, npm: list[str], copy: ShippedBinary | None
) -> None:
    find(OTHER)

    with pytest.raises(OpenCodeNotFoundError):
        worker_binary(DRIVERS, copy, own)
    assert npm == []

    used = worker_binary(DRIVERS, copy, own, install_missing=True)
    assert used.version == DRIVERS
    assert npm == [DRIVERS]


@pytest.mark.parametrize(
    ("has", "version", "words"),
    [
        (OTHER, DRIVERS, [f"/opt/opencode is opencode {OTHER}", f"the driver has {DRIVERS}"]),
        (None, DRIVERS, ["there is no opencode on PATH", f"the driver has {DRIVERS}"]),
        (None, "", ["there is no opencode on PATH", "the driver has none either"]),
    ],
)
def test_who_has_none_is_told_what_both_have_and_what_to_do(
    own: Settings, find: Find, has: str | None, version: str, words: list[str]
) -> None:
    find(has)

    with pytest.raises(ConfigurationError) as caught:
        worker_binary(version, None, own)

    assert all(word in caught.value.raw_message for word in words)
    assert "install=True" in caught.value.hint


def test_a_copy_that_says_another_version_is_not_used(own: Settings, find: Find) -> None:
    find(None)

    with pytest.raises(OpenCodeNotFoundError, match="says that it is"):
        worker_binary("1.18.0", shipped(version="1.18.0"), own, ask=said)

    assert not (own.home / "opencode" / "1.18.0").exists()


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path, find: Find) -> None:
    (tmp_path / "file").write_text("")
    find(None)

    with pytest.raises(OpenCodeNotFoundError, match="cannot write") as caught:
        worker_binary(DRIVERS, shipped(), load_settings(home=tmp_path / "file"), ask=said)

    assert "CHUTES_OPENCODE_HOME" in caught.value.hint
