"""Install opencode with the user's npm into a folder of ours; nothing global is touched."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from chutes_opencode.errors import OpenCodeNotFoundError
from chutes_opencode.opencode.binary import (
    TESTED_VERSION,
    Ask,
    Binary,
    ask_version,
    installed_binary,
    platform_packages,
)
from chutes_opencode.process import Completed, ProcessTimeout, run_simple

PACKAGE = "opencode-ai"
INSTALL_TIMEOUT_SECONDS = 900.0
SHOWN_CHARACTERS = 2000  # of npm's complaint: its cause stands at the end

WITHOUT_NPM = (
    "Install Node.js with npm and run `chutes-opencode setup` again, or get opencode from "
    "https://opencode.ai/download and set OPENCODE_BIN to the path of its binary."
)

Run = Callable[..., Completed]
Progress = Callable[[str], None]


def install(
    home: Path,
    *,
    env: Mapping[str, str],
    version: str = TESTED_VERSION,
    progress: Progress = lambda line: None,
    run: Run = run_simple,
    ask: Ask = ask_version,
) -> Binary:
    """Install a version of opencode into `<home>/opencode/<version>/`, once.

    Args:
        home: Root of our files.
        env: npm's whole environment; its PATH is where npm is looked for.
        version: Which opencode.
        progress: Gets a line before each thing that takes long.
        run: Runs npm; for tests.
        ask: Asks a binary for its version; for tests.

    Returns:
        The native binary, ready to run. Two installs at once are fine: one waits for the other.

    Raises:
        OpenCodeNotFoundError: No npm, npm failed, or no binary of the package runs here.
    """
    folder = home / "opencode"
    target = installed_binary(folder, version)
    if os.access(target, os.X_OK):
        return Binary(target, version)
    npm = shutil.which("npm", path=env.get("PATH", ""))
    if npm is None:
        raise OpenCodeNotFoundError(raw_message="there is no npm on PATH", hint=WITHOUT_NPM)
    if not platform_packages():
        raise OpenCodeNotFoundError(raw_message="opencode has no binary for this machine")
    try:
        _install_locked(folder, target, npm=npm, env=env, progress=progress, run=run, ask=ask)
    except OSError as error:
        raise OpenCodeNotFoundError(
            raw_message=f"cannot install into {folder}: {error}",
            hint="Make that folder writable, or set CHUTES_OPENCODE_HOME to one that is.",
        ) from error
    return Binary(target, version)


def _install_locked(
    folder: Path,
    target: Path,
    *,
    npm: str,
    env: Mapping[str, str],
    progress: Progress,
    run: Run,
    ask: Ask,
) -> None:
    """Install into a temporary folder beside the target, then rename: whole or not at all."""
    from filelock import FileLock  # with asyncio behind it: only who installs pays

    version = target.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(folder / ".lock"),
        tempfile.TemporaryDirectory(dir=folder, prefix=".install-") as name,
    ):
        if os.access(target, os.X_OK):
            return  # the one that held the lock before us has done it
        progress(f"fetching {PACKAGE} {version} with npm (about 100 MB)")
        _npm_install(npm, f"{PACKAGE}@{version}", Path(name), env, run)
        progress("checking that it runs")
        binary = _running_binary(Path(name), version, env.get("PATH", ""), ask)
        finished = Path(name, "finished")
        finished.mkdir()
        binary.rename(finished / target.name)
        shutil.rmtree(target.parent, ignore_errors=True)  # of an install by hand that failed
        finished.rename(target.parent)


def _npm_install(npm: str, package: str, prefix: Path, env: Mapping[str, str], run: Run) -> None:
    """Fetch a package; its scripts do not run: we take the native binary ourselves."""
    flags = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    argv = [npm, "install", *flags, "--include=optional", "--loglevel=error"]
    argv += ["--prefix", str(prefix), package]
    try:
        done = run(argv, env=env, timeout_seconds=INSTALL_TIMEOUT_SECONDS, cwd=prefix)
    except ProcessTimeout as error:
        raise OpenCodeNotFoundError(raw_message=f"npm install {package}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-SHOWN_CHARACTERS:]
        raise OpenCodeNotFoundError(
            raw_message=f"npm install {package} ended with {done.returncode}: {said}",
            hint="Check the network and npm's registry settings; or set OPENCODE_BIN to a binary.",
        )


def _running_binary(prefix: Path, version: str, search_path: str, ask: Ask) -> Path:
    """Return the first native binary that runs here: builds differ in libc and processor."""
    reasons = []
    for package in platform_packages():
        binary = prefix / "node_modules" / package / "bin" / "opencode"
        if not binary.is_file():
            continue
        binary.chmod(0o755)
        try:
            if ask(binary, search_path) == version:
                return binary
            reasons.append(f"{package} is not opencode {version}")
        except OpenCodeNotFoundError as error:
            reasons.append(error.raw_message)
    reason = "; ".join(reasons) or "the package brought no binary for this machine"
    raise OpenCodeNotFoundError(raw_message=f"no binary of {PACKAGE} {version} runs: {reason}")
