"""Log lines: ours alone, masked, one write each."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading

import pytest
import structlog

from chutes_opencode.logs import LogFormat, make_logger
from chutes_opencode.masking import MASK, register_secret

SECRET = 'log-secret-"quoted"-1'
register_secret(SECRET)


class Holder:
    """An object whose repr shows the secret."""

    def __repr__(self) -> str:
        return f"Holder({SECRET})"


@pytest.mark.parametrize("fmt", ["console", "json"])
def test_no_secret_gets_into_a_line(fmt: LogFormat) -> None:
    out = io.StringIO()
    log = make_logger("chutes_opencode", "debug", fmt, out)

    log.info(f"told {SECRET}", header={"x": [SECRET]}, holder=Holder(), data=SECRET.encode())
    try:
        raise ValueError(f"broke {SECRET}")
    except ValueError:
        log.bind(token=SECRET).exception("failed")

    assert "log-secret" not in out.getvalue()
    assert out.getvalue().count(MASK) >= 6
    assert "Traceback" in out.getvalue()


def test_a_json_line_is_one_object_with_name_level_and_time() -> None:
    out = io.StringIO()

    make_logger("chutes_opencode.x", "info", "json", out).warning("slow\nstart", seconds=1.5)

    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "slow\nstart",
        "level": "warning",
        "logger": "chutes_opencode.x",
        "seconds": 1.5,
    }
    assert out.getvalue().count("\n") == 1


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    log = make_logger("x", "warning", "console", out)

    log.debug("no")
    log.info("no")
    log.warning("yes")

    assert "yes" in out.getvalue()
    assert "no" not in out.getvalue()


def test_nobody_elses_logging_is_changed() -> None:
    before = (structlog.is_configured(), logging.root.handlers[:], logging.root.level)

    make_logger("x", "debug", "json", io.StringIO()).info("hello")

    assert (structlog.is_configured(), logging.root.handlers[:], logging.root.level) == before


def test_stderr_is_looked_up_when_a_line_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    log = make_logger("x", "info")

    log.info("now")

    assert "now" in capsys.readouterr().err


def test_the_real_stderr_is_written_directly(capfd: pytest.CaptureFixture[str]) -> None:
    log = make_logger("x", "info", "json", sys.__stderr__)

    log.info("straight \udcff")

    assert json.loads(capfd.readouterr().err.replace("\\udcff", "?"))["event"] == "straight ?"


def test_a_stream_that_is_closed_loses_the_line_and_breaks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    log = make_logger("x", "info", "json", out)
    out.close()
    log.info("lost")

    monkeypatch.setattr(sys, "stderr", None)
    make_logger("x", "info").info("lost")


def test_lines_of_many_threads_stay_whole() -> None:
    out = io.StringIO()
    log = make_logger("x", "info", "json", out)
    threads = [
        threading.Thread(target=lambda n=n: [log.info("e", n=n, i=i) for i in range(50)])
        for n in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert len({(row["n"], row["i"]) for row in rows}) == 400


def test_a_forked_child_can_log(tmp_path: object, capfd: pytest.CaptureFixture[str]) -> None:
    log = make_logger("x", "info", "json", sys.__stderr__)

    pid = os.fork()
    if pid == 0:
        log.info("child")
        os._exit(0)
    os.waitpid(pid, 0)

    assert json.loads(capfd.readouterr().err)["event"] == "child"
