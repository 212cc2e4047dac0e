"""The small process that stands between us and one opencode, and ends it with all it started.

Run by :mod:`chutes_opencode.process` as ``python -I -S supervisor.py PARENT_PID``; few imports,
because every prompt waits for its start. Its stdin is a control pipe: one JSON line says what to
start, a line ``end SECONDS`` asks to end the tree (with that much grace after a SIGTERM), and its
closing means that our parent is gone. Its stdout carries JSON lines back: ``{"pid": n}`` or
``{"error": s, "errno": n, "filename": s}``, at last ``{"returncode": n, "duration_s": x, ...}``.

However the child ends, all of its descendants are ended before the last line is written. Shell
tools give their children sessions of their own, so neither a process group nor PDEATHSIG is enough:

* Linux: we are a child subreaper, so orphans come back to us; the tree is what the parent links
  reach from here, and whatever carries our marker variable. It is stopped (SIGSTOP) until nothing
  new appears, so that it cannot outrun us, then killed and reaped.
* macOS, best effort: the child's process group and the parent links that ``ps`` shows; a process
  that left its group and whose parent exited before is not found.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # `typing` itself is too slow to import here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Prctl = Callable[[int, int], int]
    Visit = Callable[[int], None]
    Walk = Callable[[Visit], None]  # calls it with every pid of a tree as it is now
    Reap = Callable[[], None]
    Failure = tuple[int, str, str]  # errno, its text, the file

TREE_MARKER = "CHUTES_OPENCODE_TREE"  # one value a start: finds strays of this tree only
WORKSPACE_MARKER = "CHUTES_OPENCODE_WORKSPACE"  # finds what runs on in a dead caller's workspace
POLL_SECONDS = 0.5  # a sibling forked from our parent can keep the pipe open: look at getppid too
FREEZE_SECONDS, KILL_SECONDS = 1.0, 5.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def attempt(function: Callable[..., Any], *args: Any) -> bool:
    """Call a function of ``os``; return False if it raised OSError."""
    try:
        function(*args)
    except OSError:
        return False
    return True


def read_bytes(path: str) -> bytes | None:
    """Return a file's content, None if it cannot be read (its process is gone or not ours)."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib is too slow to import here
            return file.read()
    except OSError:
        return None


def parse_ps(text: str) -> dict[int, list[int]]:
    """Return the children of each pid, from the rows of ``ps -o pid=,ppid=``."""
    children: dict[int, list[int]] = {}
    for line in text.splitlines():
        pid, parent = map(int, line.split())
        children.setdefault(parent, []).append(pid)
    return children


def ps_children() -> dict[int, list[int]]:
    """Return the children of each pid as ``ps`` sees them, without that ``ps`` itself."""
    import subprocess

    env = {"PATH": "/bin:/usr/bin", "LC_ALL": "C"}
    command = ["ps", "-axo", "pid=,ppid="]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as ps:
        children = parse_ps(ps.communicate()[0])
    children[os.getpid()].remove(ps.pid)
    return children


def children_of(pid: int) -> list[int]:
    """Return a process's children at this moment, from ``/proc/<pid>/task/*/children``."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - as above
    except OSError:
        return []
    texts = (read_bytes(f"/proc/{pid}/task/{thread}/children") for thread in threads)
    return [int(child) for text in texts if text for child in text.split()]


def walk(root: int, visit: Visit) -> None:
    """Call ``visit`` with each pid below ``root``, parents first, the moment that it is found.

    At once, because a process that forks and exits all the time has another pid when a look at all
    processes is over. Only where the kernel does not list children, ``ps`` must do.
    """
    listed = read_bytes("/proc/thread-self/children") is not None
    table = {} if listed else ps_children()
    queue, seen = [root], {root}
    for parent in queue:
        for pid in children_of(parent) if listed else table.get(parent, ()):
            if pid not in seen:
                visit(pid)
                seen.add(pid)
                queue.append(pid)


def marked(name: str, value: str) -> list[int]:
    """Return the pids, but ours, whose first environment holds exactly ``name=value``.

    Linux only; elsewhere, and for processes of other users, nothing is found.
    """
    wanted = os.fsencode(f"\0{name}={value}\0")
    here = os.listdir("/proc") if sys.platform == "linux" else []  # noqa: PTH208 - as above
    pids = [int(pid) for pid in here if pid.isdigit() and int(pid) != os.getpid()]
    texts = ((pid, read_bytes(f"/proc/{pid}/environ")) for pid in pids)
    return [pid for pid, text in texts if text and wanted in b"\0" + text]


def strike(tree: Walk, number: int) -> set[int]:
    """Send a signal to every pid of a tree; return them all."""
    found: set[int] = set()

    def hit(pid: int) -> None:
        attempt(os.kill, pid, number)
        found.add(pid)

    tree(hit)
    return found


def freeze(tree: Walk, reap: Reap, seconds: float = FREEZE_SECONDS) -> set[int]:
    """Stop a tree until nothing new appears, or it would outrun its killer; return its pids."""
    stopped: set[int] = set()
    deadline = time.monotonic() + seconds
    while (new := strike(tree, signal.SIGSTOP) - stopped) and time.monotonic() < deadline:
        stopped |= new
        reap()
    return stopped


def kill_all(tree: Walk, reap: Reap, seconds: float = KILL_SECONDS) -> set[int]:
    """Freeze a tree, then kill and ``reap`` it until nothing is left.

    Returns what is still there after ``seconds`` (stuck in a system call); else an empty set.
    """
    for pid in freeze(tree, reap):  # on macOS the first death takes away the links to the others
        attempt(os.kill, pid, signal.SIGKILL)
    deadline = time.monotonic() + seconds
    while (left := strike(tree, signal.SIGKILL)) and time.monotonic() < deadline:
        time.sleep(0.002)
        reap()
    return left


class Tree:
    """The main child, all other descendants of this process, and strays that carry the marker.

    ``status``: the main child's return code (negative: a signal's number), None while it runs.
    """

    def __init__(self, child: int, marker: str) -> None:
        """Watch over ``child``, a child of this process; ``marker`` is TREE_MARKER's value."""
        self.child, self.marker = child, marker
        self.status: int | None = None
        self.childless = False

    def reap(self) -> None:
        """Take the exit status of every child that has one, adopted orphans included."""
        try:
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                if found[0] == self.child:
                    self.status = os.waitstatus_to_exitcode(found[1])
        except ChildProcessError:
            self.childless = True  # and, for a subreaper, without any descendant

    def walk(self, visit: Visit) -> None:
        """Visit each pid of the tree as it is now, and strays that carry the marker."""
        walk(os.getpid(), visit)
        for pid in marked(TREE_MARKER, self.marker) if self.childless else ():
            visit(pid)

    def end(self) -> set[int]:
        """Stop, kill and reap them all; return those that are still there, see ``kill_all``."""
        self.reap()
        left = kill_all(self.walk, self.reap)
        if sys.platform != "linux":
            attempt(os.killpg, self.child, signal.SIGKILL)
        return left


def remove_tree(path: str) -> None:
    """Delete a folder of ours, whatever its modes and depth, and follow no symbolic link.

    Sub-folders move to the top before they are emptied: no recursion and no path too long, however
    deep an agent's tool has dug. Nothing there is fine; OSError: not all of it could be deleted.
    """
    pending = [] if os.path.islink(path) else [path]  # noqa: PTH114 - pathlib is too slow here
    while pending:
        folder = pending.pop()
        attempt(os.chmod, folder, 0o700)
        for name, is_folder in list_folder(folder):
            inner = f"{folder}/{name}"
            if is_folder:
                attempt(os.chmod, inner, 0o700)  # without it a folder cannot be moved
                pending.append(f"{path}/{os.urandom(12).hex()}")
                attempt(os.rename, inner, pending[-1])
            else:
                attempt(os.unlink, inner)
        if folder != path:
            attempt(os.rmdir, folder)
    if os.path.lexists(path):
        os.rmdir(path)  # noqa: PTH106 - as above


def list_folder(path: str) -> list[tuple[str, bool]]:
    """Return each name in a folder and whether it is a real folder; nothing if it is unreadable."""
    try:
        with os.scandir(path) as entries:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError:
        return []


def load_prctl() -> Prctl:
    """Return Linux's ``prctl``; where there is none, a function that does nothing."""
    try:
        from ctypes import CDLL, c_ulong

        prctl = CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return lambda *_: -1
    return lambda option, value: int(prctl(option, c_ulong(value), *[c_ulong(0)] * 3))


def open_files(spec: dict[str, Any]) -> list[int]:
    """Open the child's stdin, stdout and stderr; output files are new and private."""
    output = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    outputs = [os.open(spec[name], output, 0o600) for name in ("stdout", "stderr")]
    return [os.open(spec["stdin"], os.O_RDONLY), *outputs]


def reset_signals() -> None:
    """Give every signal its default action again: ignored ones would stay so after exec."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            attempt(signal.signal, number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become(spec: dict[str, Any], files: list[int], supervisor: int, prctl: Prctl) -> Failure:
    """Turn this forked process into the child; only if that fails, return why."""
    what = spec["cwd"]
    try:
        os.setsid()  # a `kill 0` in it must not hit the supervisor
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # safe here: the supervisor has one thread
        if os.getppid() != supervisor:
            os._exit(127)
        reset_signals()
        for target, file in enumerate(files):
            os.dup2(file, target)
        os.chdir(what)
        what = spec["argv"][0]
        os.execve(what, spec["argv"], spec["env"])
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", None) or errno.EINVAL
        return number, getattr(error, "strerror", None) or str(error), what


def launch(spec: dict[str, Any], prctl: Prctl) -> int:
    """Start the child, return its pid; OSError tells why not and (filename) what was missing."""
    files = open_files(spec)
    reading, writing = os.pipe()
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            failure = become(spec, files, supervisor, prctl)
            os.write(writing, json.dumps(failure).encode())
        finally:
            os._exit(127)
    for descriptor in (*files, writing):
        os.close(descriptor)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - as above; ends at exec
        text = pipe.read()
    if text:
        os.waitpid(pid, 0)
        raise OSError(*json.loads(text))
    return pid


class Control:
    """The pipe from our parent: its lines, and whether it is still there."""

    def __init__(self, descriptor: int, parent: int) -> None:
        """Read from ``descriptor``; ``parent`` is what getppid gives while our parent lives."""
        self.descriptor, self.parent = descriptor, parent
        self.closed = False
        self._buffer = b""

    @property
    def parent_gone(self) -> bool:
        """Tell whether nobody is there any more to end us."""
        return self.closed or os.getppid() != self.parent

    def wait(self, seconds: float, wakeup: int) -> None:
        """Sleep until a line, the pipe's end, a signal or the time; take in what has come."""
        watched = [wakeup] if self.closed else [self.descriptor, wakeup]
        ready = select.select(watched, [], [], max(seconds, 0.0))[0]
        if wakeup in ready:
            os.read(wakeup, 4096)
        if self.descriptor in ready:
            chunk = os.read(self.descriptor, 1 << 20)
            self._buffer += chunk
            self.closed = not chunk

    def line(self) -> str | None:
        """Return the next whole line that has come, None if there is none."""
        line, newline, rest = self._buffer.partition(b"\n")
        self._buffer = rest if newline else line
        return line.decode() if newline else None


def watch(control: Control, tree: Tree, wakeup: int, terminated: list[int]) -> None:
    """Return when the child has ended or is to be ended."""
    kill_at = float("inf")
    while True:
        tree.reap()
        while (line := control.line()) is not None:
            grace = float(line.removeprefix("end") or 0)
            kill_at = min(kill_at, time.monotonic() + grace)
            if grace > 0 and tree.status is None:
                attempt(os.kill, tree.child, signal.SIGTERM)
        left = min(kill_at - time.monotonic(), POLL_SECONDS)
        if left <= 0 or tree.status is not None or control.parent_gone or terminated:
            return
        control.wait(left, wakeup)


def report(**fields: Any) -> None:
    """Write one line to our parent, if it is still there."""
    attempt(os.write, 1, json.dumps(fields).encode() + b"\n")


def install_signals(terminated: list[int]) -> int:
    """Prepare the signals; return a descriptor that is readable at every SIGCHLD and SIGTERM.

    A SIGTERM also puts an item into ``terminated``.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return reading


def supervise(control: Control) -> None:
    """Start what the first line says, watch it, end its tree, report; tidy up after our parent."""
    terminated: list[int] = []
    wakeup = install_signals(terminated)
    prctl = load_prctl()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    while (line := control.line()) is None and not control.parent_gone:
        control.wait(POLL_SECONDS, wakeup)
    if line is None or control.parent_gone:
        return
    spec, started = json.loads(line), time.monotonic()
    tree = Tree(launch(spec, prctl), spec["marker"])
    report(pid=tree.child)
    watch(control, tree, wakeup, terminated)
    duration_s = time.monotonic() - started
    survivors = tree.end()
    control.wait(0.0, wakeup)
    if control.parent_gone and spec["workspace"]:
        attempt(remove_tree, spec["workspace"])
    status = -signal.SIGKILL if tree.status is None else tree.status
    report(returncode=status, duration_s=duration_s, survivors=sorted(survivors))


def main() -> None:
    """Be the supervisor; every failure becomes a report."""
    try:
        supervise(Control(0, int(sys.argv[1])))
    except Exception as error:  # noqa: BLE001 - nobody else is there to hear of it
        text = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        report(error=text, **{name: getattr(error, name, None) for name in ("errno", "filename")})
    os._exit(0)


if __name__ == "__main__":
    main()
