"""Look at an installed package: its data files are there, and it is not the source."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

DATA_FILES = (
    "py.typed",
    "batch/report/assets/main.js",
    "batch/report/assets/report.css",
    "batch/report/assets/report.html",
    "catalog/data/providers.toml",
    "opencode/assets/guard.js",
    "opencode/assets/shell.js",
    "simulator/data/models.json",
)


def main(prefix: Path) -> None:
    """Fail with a sentence when the package under `prefix` is not whole.

    Args:
        prefix: The virtual environment that the wheel was installed into.
    """
    package = resources.files("chutes_opencode")
    if not Path(str(package)).resolve().is_relative_to(prefix.resolve()):
        sys.exit(f"imported from {package}, not from the wheel in {prefix}")
    missing = [name for name in DATA_FILES if not package.joinpath(name).is_file()]
    if missing:
        sys.exit(f"the wheel lacks {', '.join(missing)}")
    from chutes_opencode import Simulator

    with Simulator() as simulator:
        print(f"whole: {package}, simulator at {simulator.base_url}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
