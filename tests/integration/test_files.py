"""Files of a prompt: text is framed, images and PDF files arrive as such, without our paths."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode import ChutesOpenCodeLLM, InvalidRequestError, Simulator

PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


def png() -> bytes:
    """Return a picture of 2 x 2 red points."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\0\0" * 2) * 2
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("builtin_tools", [True, False])
def test_files_reach_a_model_that_takes_them(
    simulator: Simulator, tmp_path: Path, *, builtin_tools: bool
) -> None:
    notes = tmp_path / "home" / "notes {env:HOME}.txt"
    notes.write_bytes("one\r\ntwo \N{GRINNING FACE} {file:/etc/hostname}".encode())
    pictures = [("same.png", png(), "image/png"), ("same.png", png(), "image/png")]
    files: list[Any] = [*pictures, notes, ("paper.pdf", PDF, "application/pdf")]
    llm = ChutesOpenCodeLLM("sim/vision", builtin_tools=builtin_tools, retries=1)

    llm.prompt("What is it?", files=files)

    (request,) = (request for request in simulator.requests if request.body)
    parts: list[dict[str, Any]] = json.loads(request.body)["messages"][-1]["content"]
    asked = "".join(part["text"] for part in parts if part["type"] == "text")
    assert asked == (
        '<file name="notes {env:HOME}.txt">\none\r\ntwo \N{GRINNING FACE} {file:/etc/hostname}\n'
        "</file>\n\nWhat is it?"
    )
    images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert len(images) == 2
    assert all(image.startswith("data:image/png;base64,") for image in images)
    assert base64.b64decode(images[0].partition(",")[2]).startswith(b"\x89PNG")
    (paper,) = (part["file"] for part in parts if part["type"] == "file")
    assert base64.b64decode(paper["file_data"].partition(",")[2]) == PDF
    text = request.body.decode()
    assert "/attachments" not in text
    assert (str(tmp_path) in text) == builtin_tools, "the environment block names the work_dir"


@pytest.mark.parametrize(
    ("name", "content", "media_type"),
    [
        ("a.png", png(), "image/png"),
        ("a.pdf", PDF, "application/pdf"),
        ("a.bin", b"\xff\xfe\0\1", "application/octet-stream"),
    ],
)
def test_a_file_that_the_model_cannot_take_is_refused_before_anything_is_spent(
    simulator: Simulator, name: str, content: bytes, media_type: str
) -> None:
    with pytest.raises(InvalidRequestError, match=r"a\.\w+"):
        ChutesOpenCodeLLM("sim/echo").prompt("What?", files=[(name, content, media_type)])
    assert simulator.bill.total.requests == 0


def test_a_missing_file_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="nowhere"):
        ChutesOpenCodeLLM("sim/echo").prompt("What?", files=[tmp_path / "nowhere.txt"])
