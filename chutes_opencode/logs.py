"""Log lines of this package: structlog on stderr, secrets masked, nobody else's logging touched.

Neither structlog's nor the standard library's global configuration is read or changed. No lock is
held while a line is written, so a process forked at that moment cannot hang on it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TextIO

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.masking import mask, mask_value

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor

LogFormat = Literal["console", "json"]
LEVELS = ("debug", "info", "warning", "error", "critical")


class LineSink:
    """Writes each line at once: one call, so that lines of threads and processes do not mix.

    A log must not break the work it tells about: a closed or full stream loses the line.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`; None: whatever `sys.stderr` is when a line is written."""
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write one line."""
        stream = self._stream if self._stream is not None else sys.stderr
        with contextlib.suppress(OSError, ValueError):
            if stream is not None and stream is sys.__stderr__:
                # Past the stream's own lock: a fork may have copied it while it was held.
                os.write(2, f"{line}\n".encode(errors="backslashreplace"))
            elif stream is not None:  # it is None under pythonw and some daemons
                stream.write(f"{line}\n")
                stream.flush()

    debug = info = warning = error = critical = exception = msg


def make_logger(
    name: str,
    level: str = "warning",
    fmt: LogFormat = "console",
    stream: TextIO | None = None,
) -> FilteringBoundLogger:
    """Return a logger of our own.

    Args:
        name: Shown as `logger` in each line.
        level: Least severe level that is written: debug, info, warning, error or critical.
        fmt: "console" for people, "json" for one object a line.
        stream: Where to write; None: stderr.

    Returns:
        A structlog logger: `log.info("prompt done", seconds=1.2)`, `log.bind(…)`.
    """
    import structlog  # 50 ms that `import chutes_opencode` does not pay

    logger: FilteringBoundLogger = structlog.wrap_logger(
        LineSink(stream),
        processors=_processors(fmt),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    return logger.bind(logger=name)


def level_name(level: int | str | None) -> str | None:
    """Return the name of a logging level, lower case; None for None.

    Raises:
        ConfigurationError: There is no such level.
    """
    if level is None:
        return None
    name = (logging.getLevelName(level) if isinstance(level, int) else level).lower()
    if name not in LEVELS:
        raise ConfigurationError(
            raw_message=f"logging_level {level!r} is none of {', '.join(LEVELS)}"
        )
    return name


def _processors(fmt: LogFormat) -> list[Processor]:
    import structlog

    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _mask_fields,
        _masked(_json_renderer() if fmt == "json" else _console_renderer()),
    ]


def _console_renderer() -> Callable[..., str]:
    import structlog

    return structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )


def _json_renderer() -> Callable[..., str]:
    import structlog

    renderer = structlog.processors.JSONRenderer(
        default=lambda value: mask(repr(value)), ensure_ascii=False
    )
    return lambda logger, method, event: str(renderer(logger, method, event))


def _mask_fields(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Mask strings before they are escaped, which could hide a secret."""
    masked: EventDict = mask_value(dict(event))
    return masked


def _masked(render: Callable[..., str]) -> Callable[..., str]:
    """Mask the finished line too: it shows the repr of objects that no field rule looks into."""

    def masked(logger: Any, method: str, event: EventDict) -> str:
        return mask(render(logger, method, event))

    return masked
