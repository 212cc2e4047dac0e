"""A prompt's files: text in one documented frame, images and PDF attached, the rest refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes_opencode.attachments import frame, media_type_of, read_files, split_files
from chutes_opencode.errors import InvalidRequestError
from chutes_opencode.request import FilePart

PNG = b"\x89PNG\r\n\x1a\n..."
JPEG = b"\xff\xd8\xff\xe0..."
GIF = b"GIF89a..."
WEBP = b"RIFF\x00\x00\x00\x00WEBP..."
PDF = b"%PDF-1.7..."
IMAGE = FilePart("a.png", PNG, "image/png")


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.png", PNG, "image/png"),
        ("a.jpg", JPEG, "image/jpeg"),
        ("a.gif", GIF, "image/gif"),
        ("a.webp", WEBP, "image/webp"),
        ("a.pdf", PDF, "application/pdf"),
        pytest.param("a.txt", PNG, "image/png", id="the bytes are believed before the name"),
        pytest.param("a.png", b"<svg>", "application/octet-stream", id="the name lies"),
        pytest.param("a.pdf", b"text", "application/octet-stream", id="the name lies too"),
        ("a.py", b"import this", "text/x-python"),
        ("a.unheard-of", b"words", "text/plain"),
        ("README", b"words", "text/plain"),
        ("a.txt", b"", "text/plain"),
        ("a.wav", b"RIFF\x00\x00\x00\x00WAVE", "audio/x-wav"),
    ],
)
def test_the_media_type_of_a_file(name: str, content: bytes, media_type: str) -> None:
    assert media_type_of(name, content) == media_type


# --- reading -------------------------------------------------------------------------------------


def test_a_path_is_read_and_known_by_its_last_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"a\r\nb")

    expected = FilePart("notes.txt", b"a\r\nb", "text/plain")
    assert read_files([path, str(path)]) == (expected, expected)


def test_bytes_are_taken_with_name_and_type() -> None:
    assert read_files([("a.png", PNG, "image/png")]) == (IMAGE,)


@pytest.mark.parametrize("name", ["none.txt", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read: "):
        read_files([tmp_path / name])


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a\0", "a\nb", "a\rb", 'a"b', "a<b", "a>b"]
)
def test_a_name_that_breaks_frame_or_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no usable file name"):
        read_files([(name, b"", "text/plain")])


# --- framing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "framed"),
    [
        (b"a\n", '<file name="n.txt">\na\n</file>\n\n'),
        (b"a", '<file name="n.txt">\na\n</file>\n\n'),
        (b"", '<file name="n.txt">\n\n</file>\n\n'),
        (b"a\r\n\r\n", '<file name="n.txt">\na\r\n\r\n</file>\n\n'),
        ("é🙂".encode(), '<file name="n.txt">\né🙂\n</file>\n\n'),
    ],
)
def test_the_frame_is_documented(content: bytes, framed: str) -> None:
    assert frame(FilePart("n.txt", content, "text/plain")) == framed


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_text_stands_in_its_frame_unchanged(text: str) -> None:
    framed = frame(FilePart("n", text.encode(), "text/plain"))

    inside = framed.removeprefix('<file name="n">\n').removesuffix("</file>\n\n")
    assert inside in (text, f"{text}\n")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"ab\x80", b"PK\x03\x04\x00\x00", b"a\0b"])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    """A NUL is valid UTF-8, but no prompt may hold one."""
    with pytest.raises(InvalidRequestError, match="is neither UTF-8 text, image nor PDF"):
        frame(FilePart("n.bin", content, "application/octet-stream"))


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (b"", "image/png"),
        (b"a text", "image/png"),
        (b"%PDF-", "image/png"),
        (b"", "application/pdf"),
    ],
)
def test_bytes_that_are_not_what_they_are_called_are_refused(
    content: bytes, media_type: str
) -> None:
    """opencode ends without an answer, and without a word."""
    with pytest.raises(InvalidRequestError, match="a is said to be"):
        split_files([FilePart("a", content, media_type)], ["text", "image", "pdf"], "m")


# --- what the model takes ------------------------------------------------------------------------


def test_text_goes_before_the_prompt_and_the_rest_beside_it() -> None:
    one, two = (FilePart(name, b"x\n", "text/plain") for name in ("1.txt", "2.txt"))

    frames, attachments = split_files([one, IMAGE, two], ["text", "image"], "m")

    assert frames == frame(one) + frame(two)
    assert attachments == (IMAGE,)
    assert split_files([], ["text"], "m") == ("", ())


PAPER = FilePart("a.pdf", PDF, "application/pdf")


@pytest.mark.parametrize(
    ("part", "modalities"),
    [(IMAGE, ["text", "image"]), (PAPER, ["text", "pdf"]), (PAPER, ["text", "file"])],
)
def test_what_the_model_takes_is_attached(part: FilePart, modalities: list[str]) -> None:
    assert split_files([part], modalities, "m") == ("", (part,))


@pytest.mark.parametrize(
    ("part", "modalities"),
    [(IMAGE, ["text"]), (IMAGE, ["text", "pdf"]), (PAPER, ["text", "image"])],
)
def test_what_the_model_does_not_take_is_refused(part: FilePart, modalities: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match=f"so it cannot be given {part.name}") as caught:
        split_files([part], modalities, "m")

    assert caught.value.model == "m"
    assert ", ".join(modalities) in caught.value.hint
