"""Which opencode is used, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chutes_opencode.errors import OpenCodeNotFoundError
from chutes_opencode.opencode import binary
from chutes_opencode.opencode.binary import (
    OLDEST_VERSION,
    TESTED_VERSION,
    VERSIONS_FILE,
    Binary,
    check_version,
    find_binary,
    installed_binary,
    native_binaries,
    parse_version,
    platform_packages,
)
from chutes_opencode.process import Completed, ProcessTimeout

NATIVE = b"\x7fELF\x02\x01\x00 native"
WRAPPER = b"#!/usr/bin/env node\nrequire('./launch')\n"


class Machine:
    """A machine with some opencode on it; each native file tells its version when asked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.installed = root / "home" / "opencode"
        self.bin = root / "bin"
        self.bin.mkdir()
        self.asked: list[Path] = []
        self.versions: dict[Path, str] = {}

    def put(self, path: Path, version: str = TESTED_VERSION, content: bytes = NATIVE) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755)
        self.versions[path] = version
        return path

    def ask(self, path: Path, search_path: str) -> str:
        assert search_path == str(self.bin)
        self.asked.append(path)
        return self.versions[path]

    def find(self, explicit: Path | None = None) -> Binary:
        return find_binary(explicit, str(self.bin), self.installed, ask=self.ask)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1.18.33\n", (1, 18, 33)),
        ("v2.0.1", (2, 0, 1)),
        ("1.19.0-beta.2", (1, 19, 0)),
        ("0.0.0-dev-202611", (0, 0, 0)),
        ("opencode 1.18.33", None),
        ("", None),
    ],
)
def test_a_version_is_read(text: str, numbers: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == numbers


@pytest.mark.parametrize("version", [OLDEST_VERSION, TESTED_VERSION])
def test_the_ends_of_the_supported_range_are_fine(version: str) -> None:
    assert check_version(version, Path("/oc")) == ""


@pytest.mark.parametrize("version", ["1.18.999", "1.100.0", "2.0.0"])
def test_a_newer_version_is_a_warning(version: str) -> None:
    warning = f"opencode {version} is newer than {TESTED_VERSION}, the newest that was tested"

    assert Binary(Path("/oc"), version).warning == warning


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("1.15.13", f"/oc is opencode 1.15.13; {OLDEST_VERSION} is the oldest supported"),
        ("0.0.0-dev", f"/oc is opencode 0.0.0-dev; {OLDEST_VERSION} is the oldest supported"),
        ("hello", "/oc is not opencode: it is 'hello'"),
    ],
)
def test_an_old_version_is_refused(version: str, reason: str) -> None:
    with pytest.raises(OpenCodeNotFoundError) as caught:
        check_version(version, Path("/oc"))

    assert caught.value.raw_message == reason
    assert "chutes-opencode setup" in caught.value.hint


def test_the_named_binary_wins(machine: Machine) -> None:
    machine.put(machine.bin / "opencode")
    named = machine.put(machine.root / "mine", "1.18.40")

    assert machine.find(named) == Binary(named, "1.18.40")


def test_the_one_on_path_comes_before_the_installed_one(machine: Machine) -> None:
    on_path = machine.put(machine.bin / "opencode")
    installed = machine.put(installed_binary(machine.installed, TESTED_VERSION))

    assert machine.find().path == on_path
    on_path.unlink()
    assert machine.find().path == installed


@pytest.mark.parametrize("version", ["1.15.13", "no opencode"])
def test_an_unusable_one_on_path_is_passed_over_for_an_installed_one(
    machine: Machine, version: str
) -> None:
    machine.put(machine.bin / "opencode", version)
    with pytest.raises(OpenCodeNotFoundError, match=version):
        machine.find()

    installed = machine.put(installed_binary(machine.installed, TESTED_VERSION))

    assert machine.find().path == installed


def test_the_tested_version_is_preferred_among_the_installed(machine: Machine) -> None:
    for version in ("1.18.40", TESTED_VERSION, "1.18.9", "1.18.10"):
        machine.put(installed_binary(machine.installed, version), version)
    (machine.installed / ".install-x").mkdir()

    assert machine.find().version == TESTED_VERSION

    installed_binary(machine.installed, TESTED_VERSION).unlink()
    assert machine.find().version == "1.18.40"


def test_without_any_it_says_what_to_do(machine: Machine) -> None:
    with pytest.raises(OpenCodeNotFoundError, match="there is no opencode on PATH") as caught:
        machine.find()

    assert "chutes-opencode setup" in caught.value.hint
    assert "OPENCODE_BIN" in caught.value.hint


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "is no file"),
        (lambda path: path.mkdir(), "is no file"),
        (lambda path: path.touch(0o644), "is not executable"),
    ],
)
def test_a_named_path_that_cannot_run_is_refused(
    machine: Machine, make: Callable[[Path], None], reason: str
) -> None:
    path = machine.root / "named"
    make(path)

    with pytest.raises(OpenCodeNotFoundError) as caught:
        machine.find(path)

    assert caught.value.raw_message == f"{path} {reason}"
    assert "OPENCODE_BIN" in caught.value.hint


def test_a_named_binary_that_is_too_old_is_refused(machine: Machine) -> None:
    machine.put(machine.bin / "opencode")
    old = machine.put(machine.root / "old", "1.15.13")

    with pytest.raises(OpenCodeNotFoundError, match="oldest supported") as caught:
        machine.find(old)

    assert "unset it" in caught.value.hint


def test_a_link_is_followed_to_the_native_binary(machine: Machine) -> None:
    native = machine.put(machine.root / "lib/node_modules/opencode-ai/bin/opencode.exe")
    (machine.bin / "opencode").symlink_to(native)

    assert machine.find().path == native


@pytest.mark.parametrize("place", ["lib/node_modules", "lib/node_modules/opencode-ai/node_modules"])
def test_npms_wrapper_is_replaced_by_the_native_binary_beside_it(
    machine: Machine, place: str
) -> None:
    wrapper = machine.put(
        machine.root / "lib/node_modules/opencode-ai/bin/opencode", content=WRAPPER
    )
    native = machine.put(machine.root / place / platform_packages()[0] / "bin/opencode")
    (machine.bin / "opencode").symlink_to(wrapper)

    assert machine.find().path == native


def test_a_wrapper_without_a_native_binary_is_used_itself(machine: Machine) -> None:
    wrapper = machine.put(machine.bin / "opencode", content=WRAPPER)

    assert machine.find().path == wrapper


def test_a_native_binary_that_does_not_run_gives_way_to_the_next_build(machine: Machine) -> None:
    wrapper = machine.put(machine.bin / "opencode", content=WRAPPER)
    first, *others = platform_packages()
    machine.put(machine.root / "node_modules" / first / "bin/opencode", "Illegal instruction")
    built = [machine.put(machine.root / "node_modules" / o / "bin/opencode") for o in others]

    assert machine.find().path == (built[0] if built else wrapper)


def test_a_file_that_cannot_be_read_is_taken_as_it_is(machine: Machine) -> None:
    missing = machine.root / "missing"

    assert list(native_binaries(missing)) == [missing]


def test_a_version_is_asked_once(machine: Machine) -> None:
    path = machine.put(machine.bin / "opencode")

    assert [machine.find(), machine.find()] == [Binary(path, TESTED_VERSION)] * 2
    assert machine.asked == [path]

    machine.put(path, "1.18.40", NATIVE + b" changed")
    assert machine.find().version == "1.18.40"
    assert len(machine.asked) == 2


def test_what_is_no_version_is_not_remembered(machine: Machine) -> None:
    machine.put(machine.bin / "opencode", "oops")
    for _ in range(2):
        with pytest.raises(OpenCodeNotFoundError):
            machine.find()

    assert len(machine.asked) == 2


@pytest.mark.parametrize("content", ["no json", "[]", '{"%s": 3}', '{"%s": {"identity": "x"}}'])
def test_a_damaged_memory_only_costs_the_question(machine: Machine, content: str) -> None:
    path = machine.put(machine.bin / "opencode")
    machine.installed.mkdir(parents=True)
    (machine.installed / VERSIONS_FILE).write_text(content.replace("%s", str(path)))

    assert machine.find().version == TESTED_VERSION
    known = json.loads((machine.installed / VERSIONS_FILE).read_text())
    assert known[str(path)]["version"] == TESTED_VERSION


def test_a_memory_that_cannot_be_written_only_costs_the_question(machine: Machine) -> None:
    machine.put(machine.bin / "opencode")
    machine.installed.parent.write_text("a file where the folder should be")

    assert machine.find().version == TESTED_VERSION


def test_a_binary_that_vanishes_is_refused(machine: Machine) -> None:
    memory = binary.VersionMemory(machine.root / VERSIONS_FILE, machine.ask)

    with pytest.raises(OpenCodeNotFoundError, match="No such file"):
        memory.version(machine.root / "gone", str(machine.bin))


@pytest.mark.parametrize(
    ("system", "machine", "avx2", "musl", "packages"),
    [
        ("linux", "x86_64", True, False, ("", "-baseline", "-musl", "-baseline-musl")),
        ("linux", "AMD64", False, False, ("-baseline", "", "-baseline-musl", "-musl")),
        ("linux", "x86_64", True, True, ("-musl", "-baseline-musl", "", "-baseline")),
        ("linux", "aarch64", True, False, ("", "-musl")),
        ("darwin", "arm64", True, False, ("",)),
        ("darwin", "x86_64", None, False, ("-baseline", "")),
        ("linux", "riscv64", True, False, None),
        ("win32", "AMD64", True, False, None),
    ],
)
def test_the_packages_of_a_machine(
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    machine: str,
    avx2: bool | None,
    musl: bool,
    packages: tuple[str, ...] | None,
) -> None:
    monkeypatch.setattr(binary, "_is_musl", lambda: musl)
    arch = "x64" if machine in ("x86_64", "AMD64") else "arm64"
    expected = tuple(f"opencode-{system}-{arch}{variant}" for variant in packages or ())

    assert platform_packages(system, machine, avx2=avx2) == expected


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [("flags : sse avx avx2 bmi", True), ("flags : sse avx", False), (None, False)],
)
def test_avx2_is_what_the_processor_says(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, fast: bool
) -> None:
    def read(path: Path) -> str:
        if cpuinfo is None:
            raise FileNotFoundError(2, "No such file", str(path))
        return cpuinfo

    monkeypatch.setattr(binary, "_is_musl", lambda: False)
    monkeypatch.setattr(Path, "read_text", read)

    assert (platform_packages("linux", "x86_64")[0] == "opencode-linux-x64") is fast


def test_asking_runs_the_binary_in_a_home_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def run(argv: list[str], *, env: dict[str, str], timeout_seconds: float) -> Completed:
        assert argv == ["/oc", "--version"]
        assert Path(env["HOME"]).is_dir()
        seen.update(env)
        return Completed(0, "1.18.33\n", "")

    monkeypatch.setattr(binary, "run_simple", run)

    assert binary.ask_version(Path("/oc"), "/bin") == "1.18.33"
    assert set(seen) == {"PATH", "HOME", "TMPDIR"}
    assert seen["PATH"] == "/bin"
    assert not Path(seen["HOME"]).exists()


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Completed(1, "", "postinstall was not run\n"), "exit code 1: postinstall was not run"),
        (Completed(-4, "", ""), "exit code -4"),
        (OSError(8, "Exec format error"), "Exec format error"),
        (ProcessTimeout("opencode did not end within 60 s"), "did not end within 60 s"),
    ],
)
def test_a_binary_that_does_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, outcome: Completed | Exception, reason: str
) -> None:
    def run(*_: object, **__: object) -> Completed:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(binary, "run_simple", run)

    with pytest.raises(OpenCodeNotFoundError, match=reason):
        binary.ask_version(Path("/oc"), "/bin")
