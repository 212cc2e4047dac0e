"""A prompt's files: text is framed into the prompt, images and PDF files become attachments. Pure.

The frame is ours, equal on every engine (DESIGN rule 8); opencode's own way would number lines and
show absolute paths. A prompt with text files reads::

    <file name="notes.txt">
    …the file's text…
    </file>

    …the prompt…
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Sequence
from pathlib import Path

from chutes_opencode.errors import InvalidRequestError
from chutes_opencode.request import FilePart

FileArgument = str | Path | tuple[str, bytes, str]

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
PDF_TYPE = "application/pdf"
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", PDF_TYPE),
)
# What providers call the modality of a PDF file.
_PDF_MODALITIES = ("pdf", "file")


def read_files(files: Iterable[FileArgument]) -> tuple[FilePart, ...]:
    """Read a prompt's files.

    Args:
        files: Paths, or `(name, bytes, media type)`.

    Raises:
        InvalidRequestError: A file is missing, cannot be read, or has no usable name.
    """
    return tuple(_read(file) for file in files)


def _read(file: FileArgument) -> FilePart:
    if isinstance(file, tuple):
        if not _is_named_content(file):
            raise InvalidRequestError(
                raw_message="a file is neither a path nor (name, bytes, media type)"
            )
        name, content, media_type = file
        return FilePart(_checked_name(name), bytes(content), media_type)
    if not isinstance(file, str | Path):
        raise InvalidRequestError(
            raw_message=f"a file is neither a path nor (name, bytes, media type): {file!r:.80}"
        )
    path = Path(file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidRequestError(
            raw_message=f"the file {path} cannot be read: {error.strerror}",
            hint="Check the path; folders are not files.",
        ) from error
    return FilePart(_checked_name(path.name), content, media_type_of(path.name, content))


def _is_named_content(file: tuple[object, ...]) -> bool:
    shapes = (str, bytes | bytearray | memoryview, str)
    return len(file) == len(shapes) and all(map(isinstance, file, shapes))


def _checked_name(name: str) -> str:
    if not name or name in (".", "..") or any(c in name for c in '/\\\0\n\r"<>'):
        raise InvalidRequestError(raw_message=f"{name!r} is no usable file name")
    return name


def media_type_of(name: str, content: bytes) -> str:
    """Tell a file's media type: by its first bytes, else by its name, else whether it is text."""
    for magic, media_type in _MAGIC:
        if content.startswith(magic):
            return media_type
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    guessed = mimetypes.guess_type(name)[0]
    if guessed in IMAGE_TYPES or guessed == PDF_TYPE:
        return "application/octet-stream"  # the name promises what the bytes are not
    return guessed or "text/plain"


def split_files(
    files: Sequence[FilePart], modalities: Sequence[str], model: str
) -> tuple[str, tuple[FilePart, ...]]:
    """Separate text from attachments, and refuse what the model cannot take.

    Args:
        files: The prompt's files.
        modalities: What the model takes: "text", "image", "pdf", …
        model: Its id, for the message.

    Returns:
        The framed text that goes before the prompt, and the attachments.

    Raises:
        InvalidRequestError: A file is neither text, image nor PDF, or the model takes no such.
    """
    frames: list[str] = []
    attachments: list[FilePart] = []
    for file in files:
        if file.media_type in IMAGE_TYPES or file.media_type == PDF_TYPE:
            _require_content(file)
            _require_modality(file, modalities, model)
            attachments.append(file)
        else:
            frames.append(frame(file))
    return "".join(frames), tuple(attachments)


def frame(file: FilePart) -> str:
    """Return a text file in its frame.

    Raises:
        InvalidRequestError: It is no UTF-8 text.
    """
    try:
        text = file.content.decode("utf-8")
        if "\0" in text:
            raise ValueError("NUL character")  # UTF-8 knows it, but no prompt can hold it
    except ValueError as error:
        raise InvalidRequestError(
            raw_message=f"{file.name} ({file.media_type}) is neither UTF-8 text, image nor PDF",
            hint="Convert it to text, PNG, JPEG, GIF, WebP or PDF.",
        ) from error
    end = "" if text.endswith("\n") else "\n"
    return f'<file name="{file.name}">\n{text}{end}</file>\n\n'


def _require_content(file: FilePart) -> None:
    """Refuse what opencode would drop without a word: bytes that are not what they are called."""
    if media_type_of("", file.content) != file.media_type:
        raise InvalidRequestError(
            raw_message=f"{file.name} is said to be {file.media_type}, but its bytes are not",
            hint="Give the file's own media type; check that it is whole.",
        )


def _require_modality(file: FilePart, modalities: Sequence[str], model: str) -> None:
    wanted = _PDF_MODALITIES if file.media_type == PDF_TYPE else ("image",)
    if not any(name in modalities for name in wanted):
        raise InvalidRequestError(
            raw_message=f"{model} takes no {wanted[0]}, so it cannot be given {file.name}",
            hint=f"Use a model whose input modalities hold {wanted[0]!r}; this one takes: "
            + ", ".join(modalities),
            model=model,
        )
