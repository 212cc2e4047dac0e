"""Many prompts through one serve engine: what grows, what is left, what is lost."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import httpx
import psutil

from scripts.engine_bench.figures import percentile
from scripts.engine_bench.stage import Cell, Stage
from scripts.engine_bench.trees import MIB, descriptors, memory_mib, tree

CONCURRENCY = 16
SLICES = 20
_PASSWORD = "OPENCODE_SERVER_PASSWORD"
_MOST_SESSIONS = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What there was after a slice of the prompts.

    Attributes:
        prompts: How many had been sent by then.
        rate: Prompts a second in this slice.
        p99: Seconds that 99 of 100 of its prompts did not exceed.
        opencode_mib: Resident memory of the opencode servers.
        ours_mib: Resident memory of the process that the engine is in.
        opencode_descriptors: Files and sockets that the servers had open.
        our_descriptors: Those of our process.
        servers: How many opencode servers there were.
        sessions: Sessions that they still knew.
    """

    prompts: int
    rate: float
    p99: float
    opencode_mib: float
    ours_mib: float
    opencode_descriptors: int
    our_descriptors: int
    servers: int
    sessions: int


@dataclass(frozen=True, slots=True)
class Soak:
    """A soak's samples.

    Attributes:
        refreshes: How often the list of models had changed meanwhile.
        samples: One after each slice.
        errors: One for each prompt without the right answer.
    """

    refreshes: int
    samples: tuple[Sample, ...]
    errors: tuple[str, ...]

    @property
    def sessions_left(self) -> int:
        """Sessions that the servers knew at the end."""
        return self.samples[-1].sessions


def run_soak(stage: Stage, prompts: int, refreshes: int) -> Soak:
    """Send prompts in slices, with a look at the processes after each.

    Args:
        stage: Where the engine lives.
        prompts: How many in all.
        refreshes: Slices in which the list of models, which is another one each time, is fetched
            anew while prompts are under way.
    """
    worker = stage.worker("serve")
    size = -(-prompts // SLICES)
    due = {SLICES * (number + 1) // (refreshes + 1) for number in range(refreshes)}
    samples: list[Sample] = []
    errors: list[str] = []
    for number in range(SLICES):
        seen = stage.send(Cell("serve", CONCURRENCY, size), refreshes=int(number in due))
        errors += seen.errors
        samples.append(
            replace(
                _look(worker.pid),
                prompts=(number + 1) * size,
                rate=seen.rate,
                p99=percentile(seen.latencies, 99),
            )
        )
    return Soak(refreshes, tuple(samples), tuple(errors))


def _look(pid: int) -> Sample:
    servers = _servers(pid)
    ours = psutil.Process(pid)
    return Sample(
        prompts=0,
        rate=0.0,
        p99=0.0,
        opencode_mib=sum(memory_mib(each.pid) for each in servers),
        ours_mib=ours.memory_info().rss / MIB,
        opencode_descriptors=sum(descriptors(each.pid) for each in servers),
        our_descriptors=ours.num_fds(),
        servers=len(servers),
        sessions=sum(_sessions(each) for each in servers),
    )


def _servers(pid: int) -> list[psutil.Process]:
    """Return the opencode servers below a process."""
    found = []
    for process in tree(pid):
        with suppress(psutil.Error):
            if _PASSWORD in process.environ() and _port(process):
                found.append(process)
    return found


def _port(server: psutil.Process) -> int | None:
    ports = [at.laddr.port for at in server.net_connections("tcp") if at.status == "LISTEN"]
    return ports[0] if ports else None


def _sessions(server: psutil.Process) -> int:
    """Ask a server for its sessions, with the password that it was started with."""
    login = ("opencode", server.environ()[_PASSWORD])
    url = f"http://127.0.0.1:{_port(server)}/session"
    with httpx.Client(auth=login, trust_env=False, timeout=30) as client:
        answer = client.get(url, params={"limit": _MOST_SESSIONS}).raise_for_status()
    return len(answer.json())


def soak_text(soak: Soak) -> str:
    """Return a table of the samples, and what is left at the end."""
    headings = "prompts  per s  p99 s  opencode MiB  fds  ours MiB  fds  servers  sessions"
    lines = [f"{CONCURRENCY} at once; the list of models changed {soak.refreshes} times", headings]
    lines += [
        f"{each.prompts:7}{each.rate:7.1f}{each.p99:7.2f}{each.opencode_mib:14.0f}"
        f"{each.opencode_descriptors:5}{each.ours_mib:10.0f}{each.our_descriptors:5}"
        f"{each.servers:9}{each.sessions:10}"
        for each in soak.samples
    ]
    first, last = soak.samples[len(soak.samples) // 4], soak.samples[-1]
    grown = (last.ours_mib - first.ours_mib, last.our_descriptors - first.our_descriptors)
    lines += [
        f"from a quarter on, ours has grown by {grown[0]:+.0f} MiB, {grown[1]:+} descriptors",
        f"lost: {len(soak.errors)}; sessions left: {soak.sessions_left}",
        *soak.errors[:10],
    ]
    return "\n".join(lines)
