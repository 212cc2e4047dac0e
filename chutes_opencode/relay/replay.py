"""Keep exchanges on disk and give them back: a run that is repeated costs nothing.

An exchange is stored under the digest of what was asked: the base URL, the path, the request's
body, the sample's index and the number of the step. What changes from run to run by itself counts
as equal, and is put back when the answer is replayed: the workspace's paths, opencode's ids in what
the model and its tools said before, and the date and folders of opencode's environment block. The
caller's own words are never taken for equal to others.

Only a whole answer is stored, and only one that can be replayed truly; see `template`. A file that
cannot be read, or whose content is not what was written, is no answer. Neither a key nor a header
that could hold one is ever written.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from chutes_opencode.relay.template import fill_template, leaves, make_template, numbered
from chutes_opencode.relay.terms import ReplayKey

FORMAT = 1
MAX_BODY_BYTES = 32 * 1024 * 1024

_IDS_IN = frozenset({"assistant", "tool"})
# A time in hexadecimal digits, then random characters; the kinds are those of opencode 1.18.33.
_OPENCODE_ID = re.compile(
    r"\b(?:evt|job|msg|per|prt|pty|que|ses|tool|wrk)_[0-9a-f]{12}[A-Za-z0-9]{14}\b"
)
# What opencode appends to a system message, and the lines of it that change by themselves.
_ENVIRONMENT = re.compile(r"<env>\n.*?</env>", re.DOTALL)
_CHANGING = re.compile(r"(Working directory|Workspace root folder|Today's date): [^\n]*")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer from disk.

    Attributes:
        status: HTTP status.
        content_type: Media type.
        body: As it would come today: with this run's paths and ids.
    """

    status: int
    content_type: str
    body: bytes


class Request:
    """A request as the store sees it.

    Attributes:
        digest: What it is stored under, hexadecimal.
        names: The changing strings; an answer is stored with their numbers in their place.
    """

    def __init__(
        self, key: ReplayKey, *, base_url: str, path: str, body: Mapping[str, Any], step: int
    ) -> None:
        """Compute the digest.

        Args:
            key: The prompt's.
            base_url: Of the provider's API.
            path: Under it.
            body: As it goes to the provider.
            step: Number of whole answers that the request's session has had before.
        """
        self.folder = key.folder
        given = tuple(filter(None, key.volatile))
        self.names = (*given, *_opencode_ids(body))
        normal = _normal_body(body, given, self.names)
        asked = [FORMAT, base_url, path, normal, key.sample, step]
        text = json.dumps(asked, sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    @property
    def file(self) -> Path:
        """Where the answer is stored."""
        return self.folder / self.digest[:2] / f"{self.digest}.exchange"


def find(request: Request) -> Recorded | None:
    """Read the stored answer; None if there is none that can be trusted."""
    try:
        head, _, body = request.file.read_bytes().partition(b"\n")
        fields = json.loads(head)
        if fields["format"] != FORMAT or fields["sha256"] != hashlib.sha256(body).hexdigest():
            return None
        status, content_type = fields["status"], fields["content_type"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if not (isinstance(status, int) and isinstance(content_type, str)):
        return None
    put_back = fill_template(body, request.names)
    return None if put_back is None else Recorded(status, content_type, put_back)


class Recorder:
    """Takes an answer down while it passes; nothing is kept unless `commit` is called.

    The methods block on the disk for a moment; `commit` reads the whole answer again, so an event
    loop calls it in a thread.
    """

    def __init__(self, request: Request, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        """Open a nameless file.

        Args:
            request: What was asked.
            max_body_bytes: A longer answer is not stored.
        """
        self._request = request
        self._max_body_bytes = max_body_bytes
        self._size = 0
        self._file: IO[bytes] | None = None
        # A cache that cannot be written costs the next run its saving, not this one its answer.
        with suppress(OSError):
            request.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Unnamed: what is not committed leaves nothing behind, not even after a crash.
            self._file = tempfile.TemporaryFile(dir=request.folder)  # noqa: SIM115

    def write(self, data: bytes) -> None:
        """Take the next bytes of the body; those that went on to opencode."""
        if self._file is None:
            return
        self._size += len(data)
        try:
            self._file.write(data)
        except OSError:
            self.close()
        if self._size > self._max_body_bytes:
            self.close()

    def commit(self, *, status: int, content_type: str) -> bool:
        """Store the answer; only for one that was whole.

        Returns:
            Whether it is stored: False for one that could not be replayed truly, holds a secret,
            is too long, or did not fit on the disk.
        """
        if self._file is None or not 200 <= status < 300:
            self.close()
            return False
        try:
            self._file.seek(0)
            body = make_template(self._file.read(), self._request.names)
            if body is None:
                return False
            _store(self._request.file, status, content_type, body)
        except OSError:
            return False
        finally:
            self.close()
        return True

    def close(self) -> None:
        """Forget what was taken down."""
        if self._file is not None:
            with suppress(OSError):  # what a full disk still owes; it is closed even so
                self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        """Record within a `with`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget what was not committed."""
        self.close()


def _store(file: Path, status: int, content_type: str, body: bytes) -> None:
    head = {
        "format": FORMAT,
        "status": status,
        "content_type": content_type,
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A reader sees the old file, the new one or none, never a part.
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        try:
            part.write(json.dumps(head).encode() + b"\n" + body)
            part.flush()
            Path(part.name).replace(file)
        except OSError:
            Path(part.name).unlink(missing_ok=True)
            raise


# --- what counts as equal ------------------------------------------------------------------------


def _opencode_ids(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return opencode's ids in what the model and its tools said, in their order."""
    found: dict[str, None] = {}
    for message in _messages(body):
        if message.get("role") in _IDS_IN:
            for _, text in leaves(message):
                found.update(dict.fromkeys(_OPENCODE_ID.findall(text)))
    return tuple(found)


def _normal_body(
    body: Mapping[str, Any], given: tuple[str, ...], names: tuple[str, ...]
) -> list[Any]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return [numbered(body, given)]
    plain = {name: value for name, value in body.items() if name != "messages"}
    return [numbered(plain, given), *(_normal_message(row, given, names) for row in messages)]


def _normal_message(message: Any, given: tuple[str, ...], names: tuple[str, ...]) -> Any:
    role = message.get("role") if isinstance(message, Mapping) else None
    # An id in the caller's words is the caller's.
    normal = numbered(message, names if role in _IDS_IN else given)
    if role != "system" or not isinstance(normal.get("content"), str):
        return normal
    content = _ENVIRONMENT.sub(lambda block: _CHANGING.sub(r"\1:", block[0]), normal["content"])
    return {**normal, "content": content}


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    rows = messages if isinstance(messages, list) else []
    return [row for row in rows if isinstance(row, Mapping)]
