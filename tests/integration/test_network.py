"""opencode talks to our URL and to nobody else."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from chutes_opencode import ChutesOpenCodeLLM, Simulator
from tests.patience import PROCESS_SECONDS, WAIT_SECONDS

LOOPBACK_ONLY = """
import array, fcntl, os, socket, struct
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    request = struct.pack("16sh14x", b"lo", IFF_UP)
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()

import json
from chutes_opencode import ChutesOpenCodeLLM, Simulator
with Simulator() as simulator:
    os.environ |= {"CHUTES_BASE_URL": simulator.base_url, "CHUTES_API_TOKEN": simulator.api_token}
    bash = {"tool": "bash", "arguments": {"command": "echo well", "description": "d"}}
    result = ChutesOpenCodeLLM("sim/script", retries=1).prompt(json.dumps({"steps": [bash]}))
    print(result.success, result.usage.num_requests, result.transcript.tool_calls[0].output.strip())
"""


def test_everything_works_where_there_is_only_the_loopback(
    run_python: Callable[..., subprocess.Popen[str]],
) -> None:
    launcher: tuple[str, ...] = ("unshare", "--net")
    if subprocess.run([*launcher, "true"], capture_output=True, check=False).returncode != 0:
        launcher = ("unshare", "--user", "--map-root-user", "--net")

    said, complaint = run_python(LOOPBACK_ONLY, launcher=launcher).communicate(
        timeout=PROCESS_SECONDS
    )

    assert said == "True 2 well\n", complaint


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that notes what it is asked and refuses it: its URL, its notes."""
    notes: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.settimeout(WAIT_SECONDS)
                notes.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=listen, args=[listener])
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", notes
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_proxy_sees_nothing(
    simulator: Simulator,
    proxy: tuple[str, list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, notes = proxy
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, url)
    monkeypatch.setenv("NO_PROXY", "example.org, 10.0.0.0/8")

    result = ChutesOpenCodeLLM("sim/echo", retries=1).prompt("hello")

    assert result.result == "hello"
    assert notes == []


def test_the_proxy_of_these_tests_would_see_something(proxy: tuple[str, list[bytes]]) -> None:
    url, notes = proxy
    ask = "import urllib.request as r, sys; r.urlopen('http://127.0.0.1:9/x')"

    subprocess.run([sys.executable, "-c", ask], env={"http_proxy": url}, capture_output=True)

    assert notes[0].startswith(b"GET http://127.0.0.1:9/x ")
