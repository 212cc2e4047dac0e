"""Run git on repositories of strangers: none of their programs, none of the user's, no questions.

git takes hooks, filters, helpers and monitors from configuration. Here it sees one file of ours
and the repositories that we have made ourselves; the system's, the user's and a source's own
configuration are not read, or name no program that the transfer of objects would start.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import mask
from chutes_opencode.process import Command, ProcessTimeout, run_to_end
from chutes_opencode.settings import inherited_environment, installer_environment

GIT_SECONDS = 600.0
FETCH_SECONDS = 3600.0
MAX_OUTPUT_BYTES = 32 << 20
SHOWN_CHARACTERS = 500  # of git's complaint: its cause stands at the end

_NO_GIT = "Install git (https://git-scm.com/downloads), or leave `repo` out of the items."
# Not `-c`: the git that serves a local source does not inherit that. `safe.directory`: sources of
# other users are read, too, and nothing in them is run. `compression`: objects live for minutes.
_CONFIG = """\
[core]
	hooksPath = /dev/null
	fsmonitor = false
	untrackedCache = false
	quotePath = true
	pager = cat
	compression = 1
[safe]
	directory = *
	bareRepository = all
[protocol "ext"]
	allow = never
[credential]
	helper =
[gc]
	auto = 0
[maintenance]
	auto = false
[fetch]
	unpackLimit = 1
	recurseSubmodules = false
[submodule]
	recurse = false
"""
_SWITCHES = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    "LC_ALL": "C",
}
_PASSED = ("SSH_AUTH_SOCK",)  # ssh asks its agent for the user's keys
_KEPT = "GIT_SSL_CAINFO"


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a git command.

    Attributes:
        returncode: Its exit code.
        output: What it printed.
        complaint: The end of what it said on stderr, secrets masked.
    """

    returncode: int
    output: bytes
    complaint: str


@dataclass(frozen=True, slots=True)
class Git:
    """git with a home of its own.

    Attributes:
        program: Its path.
        root: A folder of ours: home, and place of its outputs; deleted if our process vanishes
            while git runs.
        env: The whole environment.
        places: How many of them run at once.
    """

    program: str
    root: Path
    env: Mapping[str, str]
    places: asyncio.Semaphore
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    async def run(self, *arguments: str | Path, seconds: float = GIT_SECONDS) -> Ran:
        """Run a command to its end, whatever its exit code.

        Raises:
            ConfigurationError: It cannot be started, took too long, or printed more than 32 MiB.
        """
        number = next(self._numbers)
        out, err = self.root / f"{number}.out", self.root / f"{number}.err"
        argv = (self.program, *map(str, arguments))
        command = Command(argv, self.env, self.root, out, err, workspace=self.root)
        try:
            async with self.places:
                ended = await run_to_end(command, timeout_seconds=seconds)
            size = out.stat().st_size
            if size > MAX_OUTPUT_BYTES:
                raise too_large(f"git printed {size >> 20} MiB")
            complaint = err.read_text(encoding="utf-8", errors="replace").strip()
            return Ran(ended.returncode, out.read_bytes(), mask(complaint[-SHOWN_CHARACTERS:]))
        except ProcessTimeout as error:
            raise ConfigurationError(
                raw_message=str(error), hint="Look at the network and the size of the repository."
            ) from error
        except OSError as error:
            raise ConfigurationError(raw_message=f"git cannot be run: {error}") from error
        finally:
            out.unlink(missing_ok=True)
            err.unlink(missing_ok=True)

    async def check(
        self, what: str, *arguments: str | Path, hint: str = "", seconds: float = GIT_SECONDS
    ) -> bytes:
        """Run a command that must succeed, and return what it printed.

        Args:
            what: What has failed if it does, for the message.
            arguments: Its arguments.
            hint: What to do then.
            seconds: How long it may take.

        Raises:
            ConfigurationError: It failed.
        """
        ran = await self.run(*arguments, seconds=seconds)
        if ran.returncode != 0:
            reason = ran.complaint or f"git ended with {ran.returncode}"
            raise ConfigurationError(raw_message=f"{what}: {reason}", hint=hint)
        return ran.output


def make_git(root: Path, environment: Mapping[str, str], places: asyncio.Semaphore) -> Git:
    """Give git a home in a folder.

    Args:
        root: The folder.
        environment: As `git_environment` returns it.
        places: How many run at once.

    Raises:
        ConfigurationError: There is no git.
    """
    program = shutil.which("git", path=environment.get("PATH", ""))
    if program is None:
        raise ConfigurationError(raw_message="there is no git on PATH", hint=_NO_GIT)
    home = root / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(_CONFIG)
    return Git(program, root, {**environment, "HOME": str(home)}, places)


def git_environment() -> dict[str, str]:
    """Return what git gets of the caller's environment: no key, no git setting, no question."""
    passed = {name: installer_environment().get(name) for name in _PASSED}
    kept = {
        name: value
        for name, value in (inherited_environment() | passed).items()
        if value is not None and (name == _KEPT or not name.startswith("GIT_"))
    }
    return kept | _SWITCHES


def too_large(what: str) -> ConfigurationError:
    """Return the error for a change that is no patch any more."""
    limit = MAX_OUTPUT_BYTES >> 20
    return ConfigurationError(
        raw_message=f"the agent's changes are too large to keep: {what}, {limit} MiB is the most",
        hint="Have the agent write data outside of its folder, or into what .gitignore names.",
    )
