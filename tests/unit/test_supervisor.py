"""The supervisor's pure parts: reading the process table, its control pipe, deleting a folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chutes_opencode import supervisor
from chutes_opencode.supervisor import Control, Tree

GONE = 2**22 + 1  # above the kernel's largest pid


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        supervisor.attempt(os.close, descriptor)


@pytest.fixture
def wakeup() -> Iterator[int]:
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def control_of(descriptor: int, text: bytes = b"", parent: int | None = None) -> Control:
    control = Control(descriptor, os.getppid() if parent is None else parent)
    control._buffer = text
    return control


class QuietTree(Tree):
    """A tree whose child ends when the test says so."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__(child=GONE, marker="m")
        self.status = status

    def reap(self) -> None:
        """There is no real child to reap."""


# ---------------------------------------------------------------------------- finding processes
def test_rows_of_ps_become_children_by_parent() -> None:
    assert supervisor.parse_ps("    1     0\n  512     1\n 9 1\n") == {0: [1], 1: [512, 9]}


def test_a_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert supervisor.read_bytes(str(tmp_path / "absent")) is None


def test_our_own_process_is_never_marked() -> None:
    name, value = next(item for item in initial_environment() if item[1])

    assert os.getpid() not in supervisor.marked(name, value)


def initial_environment() -> list[tuple[str, str]]:
    text = supervisor.read_bytes(f"/proc/{os.getpid()}/environ") or b"A=1"
    pairs = (os.fsdecode(pair).partition("=") for pair in text.split(b"\0") if b"=" in pair)
    return [(name, value) for name, _, value in pairs]


# ------------------------------------------------------------------------------ ending processes
def tree_of(*views: set[int]) -> supervisor.Walk:
    """A tree that is found as each of the views in turn, and then as the last one."""
    left = list(views)

    def walk(visit: supervisor.Visit) -> None:
        for pid in left.pop(0) if len(left) > 1 else left[0]:
            visit(pid)

    return walk


def nothing_to_reap() -> None:
    """None of these trees has a real process."""


def test_freeze_looks_again_until_nothing_new_appears() -> None:
    tree = tree_of({GONE}, {GONE, GONE + 1}, {GONE + 1}, {GONE + 2})

    assert supervisor.freeze(tree, nothing_to_reap) == {GONE, GONE + 1}


def test_freeze_gives_up_on_a_tree_that_always_grows() -> None:
    seen: set[int] = set()

    def grow(visit: supervisor.Visit) -> None:
        seen.add(GONE + len(seen))
        for pid in seen:
            visit(pid)

    assert supervisor.freeze(grow, nothing_to_reap, seconds=0.02) <= seen


def test_kill_all_goes_on_until_nothing_is_left() -> None:
    tree = tree_of({GONE}, {GONE}, {GONE}, {GONE + 1}, set())

    assert supervisor.kill_all(tree, nothing_to_reap) == set()


def test_kill_all_names_what_it_could_not_end() -> None:
    assert supervisor.kill_all(tree_of({GONE}), nothing_to_reap, seconds=0.02) == {GONE}


def test_kill_all_of_nothing_is_done_at_once() -> None:
    assert supervisor.kill_all(tree_of(set()), lambda: pytest.fail("nothing to reap")) == set()


# ----------------------------------------------------------------------------- deleting a folder
def test_remove_tree_deletes_read_only_folders_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    outside.chmod(0o755)
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("x")
    (top / "a" / "link").symlink_to(outside)
    (top / "dangling").symlink_to(top / "nowhere")
    os.mkfifo(top / "a" / ".fifo")
    (top / "a" / "b" / "file").chmod(0o400)
    (top / "a" / "b").chmod(0o500)
    (top / "a").chmod(0o000)
    top.chmod(0o500)

    supervisor.remove_tree(str(top))

    assert not top.exists()
    assert (outside / "keep").read_text() == "x"
    assert outside.stat().st_mode & 0o777 == 0o755


def test_remove_tree_is_not_stopped_by_depth(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    inner = os.open(top, os.O_RDONLY)
    for _ in range(1200):  # deeper than Python recurses, longer than PATH_MAX
        os.mkdir("folder", dir_fd=inner)
        deeper = os.open("folder", os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = deeper
    os.close(inner)

    supervisor.remove_tree(str(top))

    assert not top.exists()


def test_remove_tree_of_nothing_is_fine(tmp_path: Path) -> None:
    supervisor.remove_tree(str(tmp_path / "absent"))

    assert list(tmp_path.iterdir()) == []


def test_remove_tree_refuses_a_link_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "keep").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    with pytest.raises(NotADirectoryError):
        supervisor.remove_tree(str(tmp_path / "link"))

    assert (tmp_path / "real" / "keep").exists()


# ------------------------------------------------------------------------------ the control pipe
def test_control_gives_whole_lines_only(pipe: tuple[int, int], wakeup: int) -> None:
    control = control_of(pipe[0])
    os.write(pipe[1], b'{"argv": []}\nen')

    control.wait(5, wakeup)

    assert control.line() == '{"argv": []}'
    assert control.line() is None
    os.write(pipe[1], b"d 0.0\n")
    control.wait(5, wakeup)
    assert control.line() == "end 0.0"
    assert not control.parent_gone


def test_control_sees_the_end_of_the_pipe(pipe: tuple[int, int], wakeup: int) -> None:
    control = control_of(pipe[0])
    os.close(pipe[1])

    control.wait(5, wakeup)
    control.wait(0, wakeup)  # a closed pipe is not watched any more: no busy loop

    assert control.parent_gone


def test_control_sees_another_parent_though_the_pipe_is_open(pipe: tuple[int, int]) -> None:
    assert control_of(pipe[0], parent=GONE).parent_gone


def test_control_is_woken_by_a_signal(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"\0\0")

    control_of(pipe[0]).wait(60, reading)

    os.set_blocking(reading, False)
    with pytest.raises(BlockingIOError):  # and the wake-up has been consumed
        os.read(reading, 1)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("lines", "status", "parent", "terminated"),
    [
        (b"end\n", None, None, []),
        (b"end 0.0\n", None, None, []),
        (b"end 600\nend 0\n", None, None, []),
        (b"", 0, None, []),
        (b"", None, GONE, []),
        (b"", None, None, [signal.SIGTERM]),
    ],
    ids=["end", "no grace", "sooner after later", "child ended", "parent gone", "SIGTERM"],
)
def test_watch_ends_at(
    lines: bytes,
    status: int | None,
    parent: int | None,
    terminated: list[int],
    pipe: tuple[int, int],
    wakeup: int,
) -> None:
    control = control_of(pipe[0], lines, parent)
    started = time.monotonic()

    supervisor.watch(control, QuietTree(status), wakeup, terminated)

    assert time.monotonic() - started < 60


def test_watch_gives_the_grace_that_was_asked_for(pipe: tuple[int, int], wakeup: int) -> None:
    started = time.monotonic()

    supervisor.watch(control_of(pipe[0], b"end 0.2\n"), QuietTree(), wakeup, [])

    assert 0.2 <= time.monotonic() - started < 60


def test_watch_polls_for_a_changed_parent(pipe: tuple[int, int], wakeup: int) -> None:
    control = control_of(pipe[0])

    class ParentDies(QuietTree):
        def reap(self) -> None:
            control.parent = GONE if started + 0.3 < time.monotonic() else control.parent

    started = time.monotonic()
    supervisor.watch(control, ParentDies(), wakeup, [])

    assert time.monotonic() - started < 60


# ---------------------------------------------------------------------------- starting the child
def test_output_files_are_new_and_private(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("old")
    spec = {"stdin": os.devnull} | {n: str(tmp_path / n[3:]) for n in ("stdout", "stderr")}

    files = supervisor.open_files(spec)

    assert (tmp_path / "out").read_text() == ""
    assert (tmp_path / "err").stat().st_mode & 0o777 == 0o600
    assert not any(os.get_inheritable(file) for file in files)
    for file in files:
        os.close(file)


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    spec = {n: str(tmp_path / n) for n in ("stdin", "stdout", "stderr")}

    with pytest.raises(FileNotFoundError) as caught:
        supervisor.open_files(spec)

    assert caught.value.filename == str(tmp_path / "stdin")


def test_prctl_works_on_linux_and_is_harmless_elsewhere() -> None:
    get_dumpable = 3

    assert (supervisor.load_prctl()(get_dumpable, 0) >= 0) == (sys.platform == "linux")


def test_reports_are_json_lines(capfd: pytest.CaptureFixture[str]) -> None:
    supervisor.report(pid=7)
    supervisor.report(returncode=-9, survivors=[])

    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"pid": 7}, {"returncode": -9, "survivors": []}]
