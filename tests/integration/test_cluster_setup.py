"""What configs/ray-cluster.yaml does on a new node: its setup commands, as they stand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from chutes_opencode.opencode.binary import TESTED_VERSION
from tests.patience import PROCESS_SECONDS

pytestmark = pytest.mark.timeout(10 * PROCESS_SECONDS)  # Ray and opencode are fetched

ROOT = Path(__file__).parents[2]
# Where this machine gets packages from; taken before a test's environment is emptied.
MACHINE = {name: value for name, value in os.environ.items() if name != "HOME"}
USER = Path.home()


@pytest.fixture
def node(temp_folder: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of a new node: an empty HOME, Python and npm on PATH, and nothing of ours.

    The index and the npm registry are those that this machine is configured for; a node's own
    configuration would name them there. `python3` is the one that runs the tests.
    """
    home = tmp_path / "node"
    home.mkdir()
    kept = ("PATH", "LANG", "PIP_", "NPM_", "SSL_", "REQUESTS_", "NODE_")
    names = [name for name in MACHINE if name.upper().startswith(kept) or "PROXY" in name.upper()]
    environment = {name: MACHINE[name] for name in names if not name.endswith("_USER")}
    files = {"PIP_CONFIG_FILE": ".config/pip/pip.conf", "NPM_CONFIG_USERCONFIG": ".npmrc"}
    for name, file in files.items():
        if (USER / file).is_file():
            environment.setdefault(name, str(USER / file))
    environment["PIP_CACHE_DIR"] = MACHINE.get("PIP_CACHE_DIR", str(USER / ".cache" / "pip"))
    # opencode must come by the setup, not from this machine's PATH.
    folders = [
        folder
        for folder in MACHINE["PATH"].split(os.pathsep)
        if not Path(folder, "opencode").exists()
    ]
    path = os.pathsep.join([str(Path(sys.base_prefix, "bin")), *folders])
    return {**environment, "HOME": str(home), "TMPDIR": str(temp_folder), "PATH": path}


def run(command: str, environment: dict[str, str]) -> str:
    """Run a command as Ray does: in a login shell, in the HOME."""
    done = subprocess.run(
        ["bash", "--login", "-c", f"export PATH='{environment['PATH']}'; {command}"],
        cwd=environment["HOME"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=8 * PROCESS_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def sync_files(home: Path, mounts: dict[str, str]) -> None:
    """Do what `ray up` does with `file_mounts`, after the steps that the file names."""
    dist = home / mounts["~/chutes-opencode/dist"]
    target = home / "chutes-opencode" / "dist"
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*wheel, "--wheel-dir", str(dist), str(ROOT)], check=True)
    shutil.copy(ROOT / "constraints.txt", dist)
    shutil.copytree(dist, target)
    shutil.rmtree(dist)


def test_the_setup_commands_make_a_node_of_an_empty_home(node: dict[str, str]) -> None:
    config = yaml.safe_load((ROOT / "configs" / "ray-cluster.yaml").read_text(encoding="utf-8"))
    home = Path(node["HOME"])
    sync_files(home, config["file_mounts"])

    said = [run(command, node) for command in config["setup_commands"]]
    again = [run(command, node) for command in config["setup_commands"]]

    assert said[-1].startswith(f"opencode {TESTED_VERSION} at {home}/")
    assert again[-1] == said[-1]
    bin_folder = home / "chutes-opencode" / "venv" / "bin"
    prompt = f"{bin_folder}/chutes-opencode prompt --simulate --engine serve 'What is 17 + 25?'"
    assert run(prompt, node).strip() == "42"
    assert run(f"{bin_folder}/ray --version", node).startswith("ray, version ")
