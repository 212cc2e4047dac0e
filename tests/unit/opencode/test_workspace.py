"""A private home for one opencode process: made, filled, always removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.opencode import workspace as workspace_module
from chutes_opencode.opencode.config import KEY_VARIABLE
from chutes_opencode.opencode.workspace import (
    OWNER_FILE,
    PREFIX,
    Workspace,
    build_environment,
    clear_locks,
    sweep,
    sweep_once,
    temporary_workspace,
    write_guard,
)
from chutes_opencode.process import process_start_time


@pytest.fixture(autouse=True)
def nobody_is_killed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Note whose processes would be ended."""
    ended: list[tuple[str, str]] = []

    def end_marked(name: str, value: str) -> int:
        ended.append((name, value))
        return 0

    monkeypatch.setattr(workspace_module, "end_marked", end_marked)
    return ended


# --- a workspace ------------------------------------------------------------------------------


def test_every_folder_of_it_is_inside_and_there(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path) as workspace:
        assert workspace.root.parent == tmp_path
        assert workspace.root.name.startswith(PREFIX)
        for folder in (workspace.home, workspace.tmp, workspace.work, workspace.guard.parent):
            assert folder.is_dir()
            assert folder.is_relative_to(workspace.root)
        for path in (workspace.attachments, workspace.data, workspace.config):
            assert path.is_relative_to(workspace.root)
        assert list(workspace.work.iterdir()) == []


def test_only_its_owner_may_look_into_it(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path) as workspace:
        assert workspace.root.stat().st_mode & 0o777 == 0o700


def test_opencodes_own_npm_and_model_list_are_made_harmless(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path) as workspace:
        npmrc = (workspace.home / ".config" / "opencode" / ".npmrc").read_text()
        assert "registry=http://127.0.0.1:9/" in npmrc
        assert workspace.file("models.json").read_text() == "{}"


def test_it_names_its_owner(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path) as workspace:
        assert json.loads(workspace.file(OWNER_FILE).read_text()) == {
            "pid": os.getpid(),
            "start_time": process_start_time(os.getpid()),
        }


def test_two_at_once_are_apart(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path) as one, temporary_workspace(tmp_path) as two:
        assert one.root != two.root


@pytest.mark.parametrize("error", [None, ValueError("ours"), KeyboardInterrupt()])
def test_it_is_gone_afterwards_whatever_happens(
    tmp_path: Path, error: BaseException | None
) -> None:
    def use() -> None:
        with temporary_workspace(tmp_path) as workspace:
            locked = workspace.work / "locked"
            locked.mkdir()
            (locked / "file").write_text("x")
            locked.chmod(0o500)
            if error is not None:
                raise error

    if error is None:
        use()
    else:
        with pytest.raises(type(error)):
            use()

    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"temporary folder .* cannot be written") as caught,
        temporary_workspace(tmp_path / "none"),
    ):
        pytest.fail("there is no workspace")

    assert "TMPDIR" in caught.value.hint


def test_half_a_workspace_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with (
        pytest.raises(ConfigurationError, match="No space left"),
        temporary_workspace(tmp_path),
    ):
        pytest.fail("there is no workspace")

    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_the_guard_is_put_beside_what_it_shall_do(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path) as workspace:
        write_guard(workspace, {"maxRequests": 7, "system": "é\ud800"})

        assert "export const Guard" in workspace.guard.read_text()
        spec = json.loads(workspace.guard.with_name("guard.json").read_text())
        assert spec == {"maxRequests": 7, "system": "é\ud800"}


def test_locks_of_an_ended_opencode_are_removed(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path) as workspace:
        state = workspace.home / ".local" / "state" / "opencode"
        (state / "locks" / "a.lock").mkdir(parents=True)

        clear_locks(workspace)
        clear_locks(workspace)

        assert list(state.iterdir()) == []


# --- the environment --------------------------------------------------------------------------

WORKSPACE = Workspace(Path("/w"))


def environment(
    inherited: dict[str, str] | None = None, extra: dict[str, str] | None = None
) -> dict[str, str]:
    return build_environment(
        WORKSPACE, inherited or {}, extra or {}, key="the-key", output_ceiling=65_000
    )


def test_the_environment_is_ours_and_what_may_pass() -> None:
    made = environment({"PATH": "/bin", "LANG": "C"}, {"MY_TOOL": "1"})

    assert made["PATH"] == "/bin"
    assert made["MY_TOOL"] == "1"
    assert (made["HOME"], made["TMPDIR"]) == ("/w/home", "/w/tmp")
    assert made["OPENCODE_CONFIG"] == "/w/opencode.json"
    assert made["OPENCODE_MODELS_PATH"] == "/w/models.json"
    assert made["OPENCODE_EXPERIMENTAL_OUTPUT_TOKEN_MAX"] == "65000"
    assert made[KEY_VARIABLE] == "the-key"
    assert not [name for name in made if name.startswith("XDG_")]


def test_a_callers_no_proxy_keeps_loopback_out_of_the_proxy() -> None:
    made = environment({"NO_PROXY": "localhost"}, {"NO_PROXY": "intern.example"})

    assert made["NO_PROXY"] == "intern.example,127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    "switch",
    [
        "AUTOUPDATE",
        "CLAUDE_CODE",
        "DEFAULT_PLUGINS",
        "EXTERNAL_SKILLS",
        "LSP_DOWNLOAD",
        "MODELS_FETCH",
        "PROJECT_CONFIG",
        "SHARE",
    ],
)
def test_what_opencode_does_unasked_is_off(switch: str) -> None:
    assert environment()[f"OPENCODE_DISABLE_{switch}"] == "1"


def test_a_callers_variable_wins_over_an_inherited_one() -> None:
    assert environment({"PATH": "/bin"}, {"PATH": "/mine"})["PATH"] == "/mine"


@pytest.mark.parametrize(
    "name",
    ["HOME", "TMPDIR", KEY_VARIABLE, "OPENCODE_CONFIG", "XDG_DATA_HOME", "CHUTES_API_TOKEN"],
)
def test_a_variable_that_isolates_the_run_cannot_be_set(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"env may not set {name}"):
        environment(extra={name: "x"})


# --- sweeping ---------------------------------------------------------------------------------


def leave(root: Path, name: str, owner: object) -> Path:
    folder = root / f"{PREFIX}{name}"
    folder.mkdir()
    (folder / OWNER_FILE).write_text(owner if isinstance(owner, str) else json.dumps(owner))
    return folder


ME = {"pid": os.getpid(), "start_time": process_start_time(os.getpid())}
DEAD = {"pid": 2**22 + 1, "start_time": 1}


def test_a_workspace_of_a_dead_process_is_removed_with_what_runs_in_it(
    tmp_path: Path, nobody_is_killed: list[tuple[str, str]]
) -> None:
    dead = leave(tmp_path, "dead", DEAD)

    assert sweep(tmp_path) == 1
    assert not dead.exists()
    assert [value for _, value in nobody_is_killed] == [str(dead)]


@pytest.mark.parametrize(
    "owner",
    [
        pytest.param(ME, id="alive"),
        pytest.param("", id="half made"),
        pytest.param("{", id="half written"),
        pytest.param([], id="no object"),
        pytest.param({}, id="no pid"),
    ],
)
def test_a_workspace_that_may_be_in_use_stays(tmp_path: Path, owner: object) -> None:
    folder = leave(tmp_path, "x", owner)

    assert sweep(tmp_path) == 0
    assert folder.exists()


def test_a_pid_that_another_process_has_got_is_a_dead_owner(tmp_path: Path) -> None:
    leave(tmp_path, "x", {"pid": os.getpid(), "start_time": 1})

    assert sweep(tmp_path) == 1


def test_foreign_folders_and_links_stay(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / f"{PREFIX}file").write_text("")
    target = tmp_path / "target"
    target.mkdir()
    (target / OWNER_FILE).write_text(json.dumps(DEAD))
    (tmp_path / f"{PREFIX}link").symlink_to(target)

    assert sweep(tmp_path) == 0
    assert (target / OWNER_FILE).exists()


def test_a_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, "theirs", DEAD)
    monkeypatch.setattr(os, "getuid", lambda: 12345)

    assert sweep(tmp_path) == 0


def test_a_temporary_folder_is_swept_once_per_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, "one", DEAD)
    sweep_once(tmp_path)
    later = leave(tmp_path, "two", DEAD)

    sweep_once(tmp_path)
    assert later.exists()

    monkeypatch.setattr(os, "getpid", lambda: 1)
    sweep_once(tmp_path)
    assert not later.exists()


def test_the_first_workspace_of_a_process_sweeps(tmp_path: Path) -> None:
    dead = leave(tmp_path, "dead", DEAD)

    with temporary_workspace(tmp_path):
        assert not dead.exists()
