"""A private home for one opencode process: made, filled, and always removed.

Nothing of the user's own opencode, skills, AGENTS.md or CLAUDE.md reaches it: HOME is ours, the
environment is built from nothing, and discovery of project files is switched off. opencode leaves
a hidden 5.6 MB library in its temp folder at every start, so that folder is inside as well.
"""

from __future__ import annotations

import json
import mimetypes
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode.config import KEY_VARIABLE
from chutes_opencode.process import end_marked, process_alive, process_start_time
from chutes_opencode.request import FilePart
from chutes_opencode.supervisor import WORKSPACE_MARKER, remove_tree

PREFIX = "chutes-opencode-"
OWNER_FILE = "owner.json"

# opencode installs an npm package into each config folder at every start, and waits for it where
# there is a plugin. A lock file that has the package makes it believe that it is there (seen: a
# quarter of a second less); should it try all the same, its registry is one that is not there. Both
# concern this folder only: the npm of the agent's own shell is left alone.
_INSTALLED = {"packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
_NPMRC = "registry=http://127.0.0.1:9/\nfetch-retries=0\n"

_SWITCHES = (
    "OPENCODE_DISABLE_AUTOUPDATE",
    "OPENCODE_DISABLE_CLAUDE_CODE",
    "OPENCODE_DISABLE_DEFAULT_PLUGINS",
    "OPENCODE_DISABLE_EXTERNAL_SKILLS",
    "OPENCODE_DISABLE_LSP_DOWNLOAD",
    "OPENCODE_DISABLE_MODELS_FETCH",
    "OPENCODE_DISABLE_PROJECT_CONFIG",
    "OPENCODE_DISABLE_SHARE",
)
LOOPBACK = "127.0.0.1,localhost,::1"
_OURS = ("HOME", "TMPDIR", KEY_VARIABLE)
_OURS_BY_PREFIX = ("OPENCODE_", "XDG_", "CHUTES_")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one run.

    Attributes:
        root: Everything is below it.
    """

    root: Path

    @property
    def home(self) -> Path:
        """HOME of opencode and of what it starts."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """TMPDIR of them."""
        return self.root / "tmp"

    @property
    def work(self) -> Path:
        """The agent's folder, where the caller named none."""
        return self.root / "work"

    @property
    def attachments(self) -> Path:
        """Copies of the prompt's images and PDF files."""
        return self.root / "attachments"

    @property
    def data(self) -> Path:
        """The folder of opencode's database."""
        return self.home / ".local" / "share" / "opencode"

    @property
    def config(self) -> Path:
        """The OPENCODE_CONFIG file."""
        return self.root / "opencode.json"

    @property
    def guard(self) -> Path:
        """The guard plugin; its record is `guard.jsonl` beside it."""
        return self.root / "guard" / "guard.js"

    def file(self, name: str) -> Path:
        """A file of ours directly below the root."""
        return self.root / name


@contextmanager
def temporary_workspace(temp_root: Path) -> Iterator[Workspace]:
    """Make a workspace and remove it at the end, whatever happens.

    Args:
        temp_root: Folder to make it in.

    Raises:
        ConfigurationError: The folder cannot be written.
    """
    sweep_once(temp_root)
    root = None
    try:
        root = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temp_root))
        workspace = Workspace(root)
        _lay_out(workspace)
    except OSError as error:
        if root is not None:
            remove_tree(str(root))
        raise ConfigurationError(
            raw_message=f"the temporary folder {temp_root} cannot be written: {error}",
            hint="Make it writable, free some space, or set TMPDIR to another folder.",
        ) from error
    owner = os.getpid()
    try:
        yield workspace
    finally:
        # A forked child closes its copy of this generator when it exits; the folder is not its own.
        if os.getpid() == owner:
            remove_tree(str(root))


def _lay_out(workspace: Workspace) -> None:
    owner = {"pid": os.getpid(), "start_time": process_start_time(os.getpid())}
    workspace.file(OWNER_FILE).write_text(json.dumps(owner))
    config_folder = workspace.home / ".config" / "opencode"
    for folder in (config_folder, workspace.tmp, workspace.work, workspace.guard.parent):
        folder.mkdir(parents=True)
    (config_folder / ".npmrc").write_text(_NPMRC)
    (config_folder / "node_modules").mkdir()
    (config_folder / "package-lock.json").write_text(json.dumps(_INSTALLED))
    # opencode's built-in list names stale models under the same provider ids; none of it is ours.
    workspace.file("models.json").write_text("{}")


def write_guard(workspace: Workspace, spec: Mapping[str, Any]) -> None:
    """Put the guard plugin and what it shall do into the workspace."""
    source = resources.files("chutes_opencode.opencode").joinpath("assets", "guard.js")
    workspace.guard.write_text(source.read_text())
    workspace.guard.with_name("guard.json").write_text(json.dumps(spec))


def build_environment(
    workspace: Workspace,
    inherited: Mapping[str, str],
    extra: Mapping[str, str],
    *,
    key: str,
    output_ceiling: int,
) -> dict[str, str]:
    """Build opencode's whole environment.

    Args:
        workspace: Where it lives.
        inherited: What of the caller's environment may pass (PATH, locale, proxies, …).
        extra: The caller's variables for the agent's tools.
        key: The provider key; the config refers to it, the guard removes it once it is read.
        output_ceiling: Output tokens; opencode's own ceiling of 32,000 is lifted to it.

    Raises:
        ConfigurationError: `extra` sets a variable that keeps the run isolated.
    """
    for name in extra:
        if name in _OURS or name.startswith(_OURS_BY_PREFIX):
            raise ConfigurationError(raw_message=f"env may not set {name}: it isolates the run")
    # With a proxy set, opencode sends it even its calls to 127.0.0.1, unless this says no.
    no_proxy = {
        name: f"{extra[name]},{LOOPBACK}" for name in ("NO_PROXY", "no_proxy") if name in extra
    }
    return {
        **inherited,
        **extra,
        **no_proxy,
        **dict.fromkeys(_SWITCHES, "1"),
        "HOME": str(workspace.home),
        "TMPDIR": str(workspace.tmp),
        "OPENCODE_CONFIG": str(workspace.config),
        "OPENCODE_MODELS_PATH": str(workspace.file("models.json")),
        "OPENCODE_EXPERIMENTAL_OUTPUT_TOKEN_MAX": str(output_ceiling),
        KEY_VARIABLE: key,
    }


def attachment_paths(workspace: Workspace, attachments: Sequence[FilePart]) -> list[Path]:
    """Return where each attachment goes: a folder each, so that names may repeat."""
    return [
        workspace.attachments / str(number) / _file_name(part)
        for number, part in enumerate(attachments)
    ]


def _file_name(part: FilePart) -> str:
    """Return a name whose extension tells the media type: opencode goes by nothing else."""
    if mimetypes.guess_type(part.name)[0] == part.media_type:
        return part.name
    return part.name + (mimetypes.guess_extension(part.media_type) or "")


def clear_locks(workspace: Workspace) -> None:
    """Remove locks that an ended opencode left; the next one would wait for them (seen: 40 s)."""
    shutil.rmtree(workspace.home / ".local" / "state" / "opencode" / "locks", ignore_errors=True)


_swept: set[tuple[int, Path]] = set()
_sweep_lock = threading.Lock()


def sweep_once(temp_root: Path) -> None:
    """Sweep a temp folder, once per process."""
    with _sweep_lock:
        if (os.getpid(), temp_root) in _swept:
            return
        _swept.add((os.getpid(), temp_root))
    sweep(temp_root)


def sweep(temp_root: Path) -> int:
    """Remove workspaces whose process is gone, and end what still runs in them.

    Args:
        temp_root: Folder that holds them.

    Returns:
        How many were removed.
    """
    dead = [root for root in temp_root.glob(f"{PREFIX}*") if _is_dead(root)]
    for root in dead:
        end_marked(WORKSPACE_MARKER, str(root))
        remove_tree(str(root))
    return len(dead)


def _is_dead(root: Path) -> bool:
    try:
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            return False
        owner = json.loads((root / OWNER_FILE).read_text())
        return not process_alive(owner["pid"], owner["start_time"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # not ours, half made, or being removed right now
