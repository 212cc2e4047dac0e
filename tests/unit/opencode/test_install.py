"""Installing opencode with npm: whole or not at all, once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.errors import OpenCodeNotFoundError
from chutes_opencode.opencode import install as module
from chutes_opencode.opencode.binary import TESTED_VERSION, Binary, platform_packages
from chutes_opencode.opencode.install import install
from chutes_opencode.process import Completed, ProcessTimeout
from tests.patience import WAIT_SECONDS, join

PACKAGES = platform_packages()


class Npm:
    """Stands for npm: puts binaries where npm does; each tells the version it was given."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.bin = root / "bin"
        self.bin.mkdir()
        (self.bin / "npm").touch(0o755)
        self.env = {"PATH": str(self.bin), "npm_config_registry": "http://127.0.0.1:9/"}
        self.brings = {PACKAGES[0]: TESTED_VERSION}
        self.outcome: Completed | Exception = Completed(0, "added 2 packages", "")
        self.calls: list[list[str]] = []
        self.lines: list[str] = []

    def run(self, argv: list[str], *, env: Any, timeout_seconds: float, cwd: Path) -> Completed:
        assert env == self.env
        self.calls.append(argv)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        for package, version in self.brings.items():
            path = cwd / "node_modules" / package / "bin" / "opencode"
            path.parent.mkdir(parents=True)
            path.write_text(version)
        return self.outcome

    def ask(self, path: Path, search_path: str) -> str:
        assert path.stat().st_mode & 0o111
        if path.read_text() == "crash":
            raise OpenCodeNotFoundError(raw_message="it crashed")
        return path.read_text()

    def install(self, **changes: Any) -> Binary:
        wanted: dict[str, Any] = {"env": self.env, "run": self.run, "ask": self.ask}
        wanted["progress"] = self.lines.append
        return install(self.home, **(wanted | changes))

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.home / "opencode").iterdir())


@pytest.fixture
def npm(tmp_path: Path) -> Npm:
    return Npm(tmp_path)


def test_the_native_binary_is_fetched_without_scripts_into_our_folder(npm: Npm) -> None:
    binary = npm.install()

    assert binary == Binary(npm.home / "opencode" / TESTED_VERSION / "opencode", TESTED_VERSION)
    assert binary.path.read_text() == TESTED_VERSION
    assert npm.left() == [".lock", TESTED_VERSION]
    (argv,) = npm.calls
    assert argv[:2] == [str(npm.bin / "npm"), "install"]
    assert "--ignore-scripts" in argv
    assert argv[-1] == f"opencode-ai@{TESTED_VERSION}"
    assert "--global" not in argv
    assert npm.lines


def test_a_second_call_does_nothing(npm: Npm) -> None:
    first = npm.install()

    assert npm.install(env={}) == first
    assert len(npm.calls) == 1


def test_two_at_once_fetch_it_once(npm: Npm) -> None:
    found: list[Binary] = []
    both = threading.Barrier(2)

    def run() -> None:
        both.wait(WAIT_SECONDS)
        found.append(npm.install())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    join(*threads)

    assert found[0] == found[1]
    assert len(npm.calls) == 1


def test_the_first_build_that_runs_is_taken(npm: Npm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "platform_packages", lambda: ("a", "b", "c", "d"))
    npm.brings = {"b": "crash", "c": "1.0.0", "d": TESTED_VERSION}

    assert npm.install().path.read_text() == TESTED_VERSION


@pytest.mark.parametrize(
    ("brings", "reason"),
    [
        ({}, "the package brought no binary for this machine"),
        ({PACKAGES[0]: "crash"}, "it crashed"),
        ({PACKAGES[0]: "1.2.3"}, f"{PACKAGES[0]} is not opencode {TESTED_VERSION}"),
    ],
)
def test_without_a_build_that_runs_nothing_is_installed(
    npm: Npm, brings: dict[str, str], reason: str
) -> None:
    npm.brings = brings

    with pytest.raises(OpenCodeNotFoundError, match=reason):
        npm.install()

    assert npm.left() == [".lock"]


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Completed(1, "", "npm error code E404\nnpm error 404 Not Found"), "404 Not Found"),
        (Completed(7, "only stdout", ""), "ended with 7: only stdout"),
        (ProcessTimeout("npm did not end within 900 s"), "did not end within 900 s"),
    ],
)
def test_npms_complaint_is_told_and_nothing_is_left(
    npm: Npm, outcome: Completed | Exception, reason: str
) -> None:
    npm.outcome = outcome

    with pytest.raises(OpenCodeNotFoundError, match=reason):
        npm.install()

    assert npm.left() == [".lock"]


def test_what_a_failed_install_left_is_replaced(npm: Npm) -> None:
    (npm.home / "opencode" / TESTED_VERSION / "rest").mkdir(parents=True)

    npm.install()

    assert [p.name for p in (npm.home / "opencode" / TESTED_VERSION).iterdir()] == ["opencode"]


def test_without_npm_it_says_how_else_in_one_line(npm: Npm) -> None:
    with pytest.raises(OpenCodeNotFoundError, match="there is no npm on PATH") as caught:
        npm.install(env={"PATH": "/nowhere"})

    assert "OPENCODE_BIN" in caught.value.hint
    assert "\n" not in caught.value.hint


def test_a_machine_without_a_build_is_told_so(npm: Npm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "platform_packages", lambda: ())

    with pytest.raises(OpenCodeNotFoundError, match="no binary for this machine"):
        npm.install()


def test_a_home_that_cannot_be_written_is_named(npm: Npm) -> None:
    npm.home.write_text("a file where the folder should be")

    with pytest.raises(OpenCodeNotFoundError, match="cannot install into") as caught:
        npm.install()

    assert "CHUTES_OPENCODE_HOME" in caught.value.hint
