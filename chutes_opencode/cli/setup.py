"""`chutes-opencode setup`: have an opencode that can be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chutes_opencode.cli.output import JsonOption, print_json, say

if TYPE_CHECKING:
    from chutes_opencode.opencode.binary import Binary
    from chutes_opencode.settings import Settings


def setup(as_json: JsonOption = False) -> None:
    """Fetch the tested opencode with npm, unless there is one already.

    OPENCODE_BIN and PATH are looked at first. Nothing global is changed: it goes into a folder of
    our own (CHUTES_OPENCODE_HOME).
    """
    from chutes_opencode.settings import load_settings

    binary, fetched = provide(load_settings())
    if binary.warning:
        say(f"warning: {binary.warning}")
    if as_json:
        fields = {"path": str(binary.path), "version": binary.version, "installed": fetched}
        print_json({"ok": True, **fields, "warning": binary.warning or None})
    else:
        print(f"opencode {binary.version} at {binary.path}")


def provide(settings: Settings) -> tuple[Binary, bool]:
    """Return an opencode that can be used, and whether it was fetched just now.

    Raises:
        OpenCodeNotFoundError: There is none and none can be fetched.
    """
    from chutes_opencode.errors import OpenCodeNotFoundError
    from chutes_opencode.opencode.binary import TESTED_VERSION, find_binary
    from chutes_opencode.opencode.install import install
    from chutes_opencode.settings import inherited_environment, installer_environment

    folder = settings.home / "opencode"
    search_path = inherited_environment().get("PATH", "")
    try:
        found = find_binary(settings.opencode_bin, search_path, folder)
        outdated = found.path.is_relative_to(folder) and found.version != TESTED_VERSION
    except OpenCodeNotFoundError as error:
        if settings.opencode_bin is not None:
            raise  # it would win over what we install
        say(error.raw_message)
        outdated = True
    if not outdated:
        return found, False
    return install(settings.home, env=installer_environment(), progress=say), True
