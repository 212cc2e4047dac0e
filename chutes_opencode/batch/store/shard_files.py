"""Where the shards of a run lie below its folder, and which of them are closed.

A shard is the folder of one writer: `shards/NAME/`. Its files are only ever appended to by that
writer; once `closed` stands in it, it takes nothing more, and who has the run may mend it.
"""

from __future__ import annotations

import re
from pathlib import Path

from chutes_opencode.batch.durable import StoreError, storing, write_whole

SHARDS = "shards"
OPENED, CLOSED = "opened", "closed"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_RESULTS = re.compile(r"results-\d{6,}\.jsonl")
_ATTEMPTS = re.compile(r"attempts-\d{6,}\.jsonl")


def check_name(name: str) -> str:
    """Return the name of a shard.

    Raises:
        ValueError: It has other characters than letters, digits and dashes.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a shard: letters, digits and dashes")
    return name


def shard_path(name: str) -> str:
    """Return where a shard lies below its run.

    Raises:
        ValueError: That is no name.
    """
    return f"{SHARDS}/{check_name(name)}"


def results_name(number: int) -> str:
    """Return the name of a shard's file of results."""
    return f"results-{number:06}.jsonl"


def attempts_name(number: int) -> str:
    """Return the name of a shard's file of tries."""
    return f"attempts-{number:06}.jsonl"


def shard_folder(run: Path, name: str) -> Path:
    """Return the folder of a shard."""
    return run / shard_path(name)


def shard_names(run: Path) -> list[str]:
    """Return the names of a run's shards, sorted: that is their order in all that reads them.

    Raises:
        StoreError: The folder cannot be read.
    """
    folder = run / SHARDS
    with storing(folder):
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if _NAME.fullmatch(path.name))


def result_files(run: Path) -> list[Path]:
    """Return the files with results of all shards, in their order."""
    return [file for name in shard_names(run) for file in _files(run, name, _RESULTS)]


def attempt_files(run: Path) -> list[Path]:
    """Return the files with tries of all shards, in their order."""
    return [file for name in shard_names(run) for file in _files(run, name, _ATTEMPTS)]


def files_of(run: Path, name: str) -> list[Path]:
    """Return the files with results of one shard, in their order."""
    return _files(run, name, _RESULTS)


def shard_of(path: str) -> str:
    """Return the shard that a file belongs to, given its path below the run.

    Returns:
        "" for what is no file of a shard, or one that only holds transcripts.
    """
    top, _, rest = path.partition("/")
    name, _, file = rest.partition("/")
    known = file in (OPENED, CLOSED) or _RESULTS.fullmatch(file) or _ATTEMPTS.fullmatch(file)
    return name if top == SHARDS and _NAME.fullmatch(name) and known else ""


def is_results(path: str) -> bool:
    """Tell whether a path ends in the name of a shard's file of results."""
    return _RESULTS.fullmatch(path.rpartition("/")[2]) is not None


def _files(run: Path, name: str, pattern: re.Pattern[str]) -> list[Path]:
    folder = shard_folder(run, name)
    with storing(folder):
        if not folder.is_dir():
            return []
        found = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: (len(path.name), path.name))


def is_closed(shard: Path) -> bool:
    """Tell whether a shard takes nothing more."""
    with storing(shard):
        return (shard / CLOSED).exists()


def close_shard(shard: Path) -> None:
    """Have a shard take nothing more, from now on and after any crash; it has to be there.

    Raises:
        StoreError: It cannot be written.
    """
    if not is_closed(shard):
        write_whole(shard / CLOSED, b"")


def close_shards(run: Path) -> None:
    """Have all shards of a run take nothing more.

    Raises:
        StoreError: They cannot be written.
    """
    for name in shard_names(run):
        close_shard(shard_folder(run, name))


def closed_error(name: str) -> StoreError:
    """Return the error of a writer whose shard was closed."""
    return StoreError(
        raw_message=f"the shard {name} is closed",
        hint="The run has ended, or gave this writer up for lost; the prompt runs elsewhere.",
    )


def used_error(name: str) -> StoreError:
    """Return the error of a name that a shard of the run has, or had."""
    return StoreError(
        raw_message=f"the run has a shard {name} already",
        hint="A shard has one writer for ever: take another name.",
    )
