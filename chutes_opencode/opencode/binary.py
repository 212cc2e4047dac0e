"""Find an opencode binary that can be used, and know its version.

npm puts a wrapper on PATH whose form depends on how it was installed (a hard link to the native
binary, a node script, a placeholder that fails); the native binary in the platform's package is
what we run: it starts faster and signals reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chutes_opencode.errors import OpenCodeNotFoundError
from chutes_opencode.process import ProcessTimeout, run_simple

# The supported range of opencode, in this one place.
TESTED_VERSION = "1.18.33"
OLDEST_VERSION = "1.17.0"

VERSION_TIMEOUT_SECONDS = 60.0  # a cold disk reads 180 MB first
VERSIONS_FILE = "versions.json"  # asking a binary costs 0.4 s and 0.2 GB

EXPLICIT_HINT = (
    "Point OPENCODE_BIN at an opencode binary, or unset it and run `chutes-opencode setup`."
)

Ask = Callable[[Path, str], str]
"""(binary, PATH) -> the version that it tells, or OpenCodeNotFoundError."""


@dataclass(frozen=True)
class Binary:
    """An opencode that can be used.

    Attributes:
        path: The program, absolute.
        version: What `--version` says, like "1.18.33".
    """

    path: Path
    version: str

    @property
    def warning(self) -> str:
        """What to know about this version; empty: nothing."""
        return check_version(self.version, self.path)


def parse_version(text: str) -> tuple[int, int, int] | None:
    """Return the numbers of a version like "1.18.33" or "v1.19.0-beta.1", None if it is none."""
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.(\d+)([-+][\w.+-]*)?", text.strip())
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def check_version(version: str, path: Path) -> str:
    """Hold a version against the supported range.

    Returns:
        A warning when it is newer than the tested one, else "".

    Raises:
        OpenCodeNotFoundError: It is too old, or no version at all.
    """
    numbers = parse_version(version)
    if numbers is None:
        raise OpenCodeNotFoundError(raw_message=f"{path} is not opencode: it is {version!r:.80}")
    if numbers < _numbers(OLDEST_VERSION):
        raise OpenCodeNotFoundError(
            raw_message=f"{path} is opencode {version}; {OLDEST_VERSION} is the oldest supported"
        )
    if numbers > _numbers(TESTED_VERSION):
        return f"opencode {version} is newer than {TESTED_VERSION}, the newest that was tested"
    return ""


def find_binary(
    explicit: Path | None, search_path: str, installed: Path, *, ask: Ask | None = None
) -> Binary:
    """Find the opencode to use: the named one, else PATH's, else the installed one.

    One on PATH that cannot be used is passed over when an installed one can.

    Args:
        explicit: What the caller or OPENCODE_BIN names; then nothing else is looked at.
        search_path: The caller's PATH.
        installed: Folder in which `install` puts its versions; versions are remembered there too.
        ask: Asks a binary for its version; None: run it.

    Raises:
        OpenCodeNotFoundError: None can be used; says which and why.
    """
    memory = VersionMemory(installed / VERSIONS_FILE, ask or ask_version)

    def usable(path: Path) -> Binary:
        version = memory.version(path, search_path)
        check_version(version, path)
        return Binary(path, version)

    if explicit is not None:
        try:
            return usable(_executable(explicit))
        except OpenCodeNotFoundError as error:
            error.hint = EXPLICIT_HINT
            raise
    failure: OpenCodeNotFoundError | None = None
    for path in _candidates(search_path, installed):
        try:
            return usable(path)
        except OpenCodeNotFoundError as error:
            failure = failure or error
    raise failure or OpenCodeNotFoundError(raw_message="there is no opencode on PATH")


def installed_binary(installed: Path, version: str) -> Path:
    """Return where `install` puts the binary of a version."""
    return installed / version / "opencode"


def _numbers(version: str) -> tuple[int, int, int]:
    return parse_version(version) or (0, 0, 0)


def _candidates(search_path: str, installed: Path) -> Iterator[Path]:
    """Yield PATH's opencode, then the installed ones, the tested version first."""
    found = shutil.which("opencode", path=search_path)
    if found:
        yield from native_binaries(Path(found).absolute())
    versions = [folder.name for folder in installed.glob("*/") if parse_version(folder.name)]
    for version in sorted(versions, key=_preference, reverse=True):
        path = installed_binary(installed, version)
        if os.access(path, os.X_OK):
            yield path


def _preference(version: str) -> tuple[bool, tuple[int, int, int]]:
    return version == TESTED_VERSION, _numbers(version)


def _executable(path: Path) -> Path:
    """Return the program that an explicit path stands for."""
    path = path.absolute()
    flaw = "" if os.path.isfile(path) else "is no file"  # noqa: PTH113 - Path's may raise
    if flaw or not os.access(path, os.X_OK):
        raise OpenCodeNotFoundError(raw_message=f"{path} {flaw or 'is not executable'}")
    return next(native_binaries(path))


def native_binaries(path: Path) -> Iterator[Path]:
    """Yield the native binaries that `path` may stand for, best first; in the end, itself.

    Args:
        path: A native binary, or npm's wrapper, or a link to one of them.
    """
    real = path.resolve()
    if not _is_script(real):
        yield real
        return
    folders = [parent / "node_modules" for parent in real.parents]
    for package in platform_packages():
        for folder in folders:
            native = folder / package / "bin" / "opencode"
            if os.access(native, os.X_OK) and not _is_script(native):
                yield native
    yield path


def _is_script(path: Path) -> bool:
    """Tell whether a file is text: a script, or the placeholder that npm leaves without scripts."""
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(256)
    except OSError:
        return False


def platform_packages(
    system: str = sys.platform, machine: str | None = None, *, avx2: bool | None = None
) -> Sequence[str]:
    """Return the npm packages that may hold this machine's binary, best first.

    Args:
        system: Like `sys.platform`.
        machine: Like `platform.machine()`; None: this one's.
        avx2: Whether the processor has AVX2 ("baseline" builds do without); None: look.
    """
    names = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}
    arch = names.get((machine or platform.machine()).lower())
    if arch is None or system not in ("linux", "darwin"):
        return ()
    variants = [""]
    if arch == "x64":
        fast = _has_avx2(system) if avx2 is None else avx2
        variants = ["", "-baseline"] if fast else ["-baseline", ""]
    if system == "linux":
        libc = ["-musl", ""] if _is_musl() else ["", "-musl"]
        variants = [build + name for name in libc for build in variants]
    return tuple(f"opencode-{system}-{arch}{variant}" for variant in variants)


def _has_avx2(system: str) -> bool:
    """Look at the processor; macOS tells only a subprocess, and its emulation lacks AVX2."""
    if system != "linux":
        return False
    try:
        return re.search(r"\bavx2\b", Path("/proc/cpuinfo").read_text()) is not None
    except OSError:
        return False


def _is_musl() -> bool:
    return Path("/etc/alpine-release").exists() or platform.libc_ver()[0] == "musl"


def ask_version(path: Path, search_path: str) -> str:
    """Run a binary with `--version`, in an environment of its own that is deleted afterwards.

    Raises:
        OpenCodeNotFoundError: It does not run.
    """
    argv = [str(path), "--version"]
    try:
        with tempfile.TemporaryDirectory(prefix="chutes-opencode-version-") as home:
            env = {"PATH": search_path, "HOME": home, "TMPDIR": home}
            shown = run_simple(argv, env=env, timeout_seconds=VERSION_TIMEOUT_SECONDS)
    except (OSError, ProcessTimeout) as error:
        raise OpenCodeNotFoundError(raw_message=f"{path} does not run: {error}") from error
    if shown.returncode != 0:
        said = (shown.stderr or shown.stdout).strip()[:200]
        raise OpenCodeNotFoundError(
            raw_message=f"{path} does not run: exit code {shown.returncode}: {said}"
        )
    return shown.stdout.strip()


class VersionMemory:
    """Remembers the version of each binary by its path, size and time of change."""

    def __init__(self, file: Path, ask: Ask) -> None:
        """Keep what is known in `file`, where it can be written."""
        self._file = file
        self._ask = ask

    def version(self, path: Path, search_path: str) -> str:
        """Return the version of a binary, asking it only when it is new or has changed."""
        key = _identity(path)
        known = self._load()
        if known.get(str(path), {}).get("identity") == key:
            return str(known[str(path)]["version"])
        version = self._ask(path, search_path)
        if parse_version(version):
            self._save(self._load() | {str(path): {"identity": key, "version": version}})
        return version

    def _load(self) -> dict[str, dict[str, object]]:
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {
            path: entry
            for path, entry in (known.items() if isinstance(known, dict) else ())
            if isinstance(entry, dict) and isinstance(entry.get("version"), str)
        }

    def _save(self, known: dict[str, dict[str, object]]) -> None:
        """Write the file whole or not at all; a folder that cannot be written costs only time."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._file.parent)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(known, file)
            Path(name).replace(self._file)


def _identity(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError as error:
        raise OpenCodeNotFoundError(raw_message=f"{path}: {error.strerror}") from error
    return f"{stat.st_size}-{stat.st_mtime_ns}"
