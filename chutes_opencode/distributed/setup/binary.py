"""The opencode of a worker: its own, if it is the driver's version, else a copy of the driver's."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chutes_opencode.distributed.extra import ray
from chutes_opencode.errors import OpenCodeNotFoundError
from chutes_opencode.opencode.binary import (
    TESTED_VERSION,
    Ask,
    Binary,
    ask_version,
    find_binary,
    installed_binary,
)
from chutes_opencode.opencode.install import install
from chutes_opencode.settings import Settings, inherited_environment, installer_environment

MACHINE = (sys.platform, platform.machine().lower())

FIX = (
    "Put that version on the workers (their PATH, OPENCODE_BIN, or `chutes-opencode setup` there), "
    "or allow them to fetch it from npm with install=True."
)


@dataclass(frozen=True, slots=True)
class ShippedBinary:
    """The driver's opencode in Ray's object store; a worker fetches it only if it needs it.

    Attributes:
        version: Which opencode.
        machine: For which machines: system and processor.
        ref: Ray's reference to its bytes; they stay as long as somebody holds it.
    """

    version: str
    machine: tuple[str, str]
    ref: Any = field(repr=False)

    @classmethod
    def of(cls, binary: Binary) -> ShippedBinary:
        """Put a binary of this machine into the object store."""
        import numpy  # comes with Ray's own extra; of an array Ray makes no further copy

        return cls(binary.version, MACHINE, ray.put(numpy.fromfile(binary.path, dtype="uint8")))

    @property
    def fits(self) -> bool:
        """Whether it was made for machines like this one."""
        return self.machine == MACHINE

    def write(self, path: Path) -> None:
        """Fetch it and write it to a file."""
        ray.get(self.ref).tofile(path)


def find_own(settings: Settings) -> Binary:
    """Find this machine's opencode: OPENCODE_BIN, PATH, CHUTES_OPENCODE_HOME.

    Args:
        settings: This machine's.

    Raises:
        OpenCodeNotFoundError: None can be used.
    """
    path = inherited_environment().get("PATH", "")
    return find_binary(settings.opencode_bin, path, settings.home / "opencode")


def worker_binary(
    version: str,
    shipped: ShippedBinary | None,
    settings: Settings,
    *,
    install_missing: bool = False,
    ask: Ask = ask_version,
) -> Binary:
    """Find or make the opencode that a worker uses; nothing is fetched from npm unless asked.

    Args:
        version: The driver's; "": it has none, and any supported one will do.
        shipped: The driver's copy; None: there is none.
        settings: The worker's.
        install_missing: Whether npm may be asked, last.
        ask: Asks a binary for its version; for tests.

    Raises:
        OpenCodeNotFoundError: None; names the worker's and the driver's, and what to do.
    """
    try:
        found: Binary | None = find_own(settings)
        reason = ""
    except OpenCodeNotFoundError as error:
        found, reason = None, error.raw_message
    if found is not None and version in ("", found.version):
        return found
    wanted = version or TESTED_VERSION
    target = installed_binary(settings.home / "opencode", wanted)
    if os.access(target, os.X_OK):
        return Binary(target, wanted)
    if shipped is not None and shipped.fits:
        _unpack(shipped, target, ask)
        return Binary(target, wanted)
    if install_missing:
        return install(settings.home, env=installer_environment(), version=wanted)
    has = reason if found is None else f"{found.path} is opencode {found.version}"
    drivers = f"the driver has {version}" if version else "the driver has none either"
    raise OpenCodeNotFoundError(
        raw_message=f"this worker has no opencode to use: {has}; {drivers}", hint=FIX
    )


def _unpack(shipped: ShippedBinary, target: Path, ask: Ask) -> None:
    """Write the driver's copy to its place, whole or not at all; workers of a node do it once."""
    from filelock import FileLock

    folder = target.parent.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if os.access(target, os.X_OK):
                return
            with tempfile.TemporaryDirectory(dir=folder, prefix=".shipped-") as name:
                finished = Path(name, target.parent.name)
                finished.mkdir()
                binary = finished / target.name
                shipped.write(binary)
                binary.chmod(0o755)
                _check(binary, shipped.version, ask)
                finished.rename(target.parent)
    except OSError as error:
        raise OpenCodeNotFoundError(
            raw_message=f"cannot write the driver's opencode to {folder}: {error}",
            hint="Make that folder writable, or set CHUTES_OPENCODE_HOME to one that is.",
        ) from error


def _check(binary: Path, version: str, ask: Ask) -> None:
    said = ask(binary, inherited_environment().get("PATH", ""))
    if said != version:
        raise OpenCodeNotFoundError(
            raw_message=f"the driver's copy says that it is {said!r:.80}, not {version}", hint=FIX
        )
