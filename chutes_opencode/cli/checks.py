"""The single checks of `doctor`: each looks at one thing, says what it found and how to fix it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chutes_opencode.cli.output import counted, exit_code
from chutes_opencode.errors import OpenCodeError, ServerError

if TYPE_CHECKING:
    from chutes_opencode.catalog.catalog import Catalog
    from chutes_opencode.catalog.listing import Listing
    from chutes_opencode.catalog.totals import LookupStats
    from chutes_opencode.settings import Settings

MIN_PYTHON = (3, 11, 0)
LIVE_PROMPT = "Answer with the single word: ready"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        status: "warn" does not keep a prompt from working.
        detail: What was found.
        fix: What to do, one sentence; empty when all is well.
        exit_code: That of `doctor` if this is the first failure; 0 unless it is one.
    """

    name: str
    status: Literal["pass", "warn", "fail"]
    detail: str
    fix: str = ""
    exit_code: int = 0

    def fields(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def failed(name: str, error: OpenCodeError) -> Check:
    """Return the line for a typed error."""
    return Check(name, "fail", error.raw_message, error.hint, exit_code(error) or 1)


def check_python(version: tuple[int, int, int] = sys.version_info[:3]) -> Check:
    """Hold Python against the oldest supported one."""
    shown = ".".join(map(str, version))
    if version < MIN_PYTHON:
        return Check("python", "fail", shown, "Use Python 3.11 or newer.", 2)
    return Check("python", "pass", f"{shown} at {sys.executable}")


def check_platform(system: str = sys.platform) -> Check:
    """Tell how far this system is supported."""
    detail = f"{platform.system()} {platform.machine()}"
    if system == "linux":
        return Check("platform", "pass", detail)
    if system == "darwin":
        fix = "Nothing to do; use Linux where strays of a killed caller must be found."
        return Check("platform", "warn", f"{detail}: ending process trees is best effort", fix)
    return Check("platform", "fail", f"{detail} is not supported", "Use WSL: wsl --install.", 2)


def check_opencode(settings: Settings, search_path: str) -> Check:
    """Find the binary that prompts would use."""
    from chutes_opencode.opencode.binary import find_binary

    try:
        binary = find_binary(settings.opencode_bin, search_path, settings.home / "opencode")
    except OpenCodeError as error:
        return failed("opencode", error)
    detail = f"{binary.version} at {binary.path}"
    if binary.warning:
        fix = "If prompts fail, run `chutes-opencode setup` and unset OPENCODE_BIN."
        return Check("opencode", "warn", f"{detail}: {binary.warning}", fix)
    return Check("opencode", "pass", detail)


def check_npm(search_path: str) -> Check:
    """Look for npm, which only `setup` needs."""
    npm = shutil.which("npm", path=search_path)
    if npm is None:
        fix = "Install Node.js with npm if `chutes-opencode setup` shall fetch opencode."
        return Check("npm", "warn", "not on PATH", fix)
    return Check("npm", "pass", npm)


def check_account(settings: Settings) -> Check:
    """Tell where the key is from and whether it is accepted."""
    from chutes_opencode.cli.account import check_key

    source = settings.sources["api_token"]
    try:
        checked = check_key(settings)
    except OpenCodeError as error:
        return failed("key", error)
    if settings.api_token is None:
        return Check("key", "pass", "there is none, and none is needed")
    if checked.verdict == "refused":
        where = settings.endpoint.key_url or settings.endpoint.name
        fix = f"Get a valid key at {where} and store it with `chutes-opencode config init`."
        return Check("key", "fail", f"from {source}: {checked.detail}", fix, 3)
    if checked.verdict == "unknown" and settings.management_url is not None:
        fix = "Check the network, then run `chutes-opencode doctor` again."
        return Check("key", "warn", f"from {source}: {checked.detail}", fix)
    return Check("key", "pass", f"from {source}: {checked.detail}")


def check_providers(settings: Settings) -> Check:
    """Count the registry, and name what the user has added or changed."""
    from chutes_opencode.catalog.providers import all_providers
    from chutes_opencode.credentials import BUILT_IN

    providers = all_providers(files=settings.provider_files())
    own = [provider for provider in providers if provider.source != BUILT_IN]
    detail = f"{len(providers)} known"
    if own:
        names = ", ".join(f"{provider.id} ({provider.source})" for provider in own)
        detail += f"; yours: {names}"
    return Check("providers", "pass", detail)


def check_base_url(catalog: Catalog, listing: Listing) -> Check:
    """Tell whether the model list could be fetched.

    Args:
        catalog: Whose list it is.
        listing: What `refresh` has answered.
    """
    settings = catalog.settings
    if catalog.provider.discovery_path is None:
        detail = f"{settings.base_url} offers no list of its models: not asked"
        return Check("base URL", "pass", detail)
    if listing.source != "api":
        reason = "; ".join(listing.problems) or f"{settings.base_url} lists no models"
        where = settings.sources["base_url"]
        fix = f"Check the network and the base URL (from: {where})."
        return Check("base URL", "fail", reason, fix, exit_code(ServerError()))
    detail = f"{settings.base_url} answered in {listing.seconds:.2f} s"
    if listing.problems:
        fix = "Look at what is named; the models are known all the same."
        return Check("base URL", "warn", f"{detail}: {'; '.join(listing.problems)}", fix)
    return Check("base URL", "pass", detail)


def check_models(catalog: Catalog, listing: Listing) -> Check:
    """Tell where the list in use is from, how old it is and how well the cache serves.

    Args:
        catalog: Whose list it is.
        listing: What is in use.
    """
    from chutes_opencode.catalog.listing import describe_age

    age = "" if listing.age_s is None else f", {describe_age(listing.age_s)} old"
    detail = (
        f"{counted(len(listing), 'model')}, source {listing.source}{age}; {_served(catalog.totals)}"
    )
    if not listing:
        fix = "Let model_filter show a model, or see what is wrong with the base URL."
        return Check("models", "warn", detail, fix)
    if listing.source != "api" and catalog.provider.discovery_path is not None:
        fix = "Prompts work on; run `chutes-opencode models refresh` once the base URL answers."
        return Check("models", "warn", detail, fix)
    return Check("models", "pass", detail)


def _served(totals: LookupStats) -> str:
    """Return in words how many look-ups the cache has answered."""
    fetches = f"{counted(totals.syncs, 'fetch', 'fetches')}, {totals.failed_syncs} failed"
    if totals.hit_rate is None:
        return f"no look-up so far, {fetches}"
    return f"{totals.hit_rate:.0%} of {totals.lookups} look-ups from the cache, {fetches}"


def check_default_model(catalog: Catalog) -> Iterator[Check]:
    """Look the model up that prompts use by default, if one is set."""
    settings = catalog.settings
    if settings.default_model is None:
        return
    try:
        model = catalog.resolve(settings.default_model)
    except OpenCodeError as error:
        yield failed("default model", error)
        return
    yield Check("default model", "pass", f"{model.id}, from {settings.sources['default_model']}")


def check_key_destination(settings: Settings) -> Iterator[Check]:
    """Warn when a file of the project decides to whom the user's own key goes."""
    from chutes_opencode.settings import project_file, project_providers_file

    project = (f"{project_file().name}:", f"{project_providers_file().name}:")
    url_from, key_from = settings.sources["base_url"], settings.sources["api_token"]
    own = settings.is_chutes or settings.is_loopback or any(name in key_from for name in project)
    if settings.api_token and any(name in url_from for name in project) and not own:
        detail = f"{url_from} sends your key (from {key_from}) to {settings.base_url}"
        fix = "Remove base_url from the project's file unless you trust that host with the key."
        yield Check("key's destination", "warn", detail, fix)


def check_file_mode(path: Path) -> Iterator[Check]:
    """Warn when a settings file with a key can be read by other users."""
    try:
        mode = path.stat().st_mode
        holds_key = "token" in path.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return
    if holds_key and mode & 0o077:
        yield Check("settings file", "warn", f"others can read {path}", f"Run: chmod 600 {path}")


def check_folder(name: str, folder: Path, variable: str) -> Check:
    """Try to write into a folder, made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = f"Make it writable, or set {variable} to a folder that is."
        return Check(name, "fail", f"{folder}: {error.strerror}", fix, 2)
    return Check(name, "pass", f"{folder} can be written")


def check_workspaces(temp_dir: Path) -> Check:
    """Remove what runs of killed callers have left."""
    from chutes_opencode.opencode.workspace import sweep

    count = sweep(temp_dir) if os.access(temp_dir, os.R_OK) else 0
    return Check("dead workspaces", "pass", f"{count} removed" if count else "none")


def check_live(settings: Settings, *, model: str | None = None, provider: str = "chutes") -> Check:
    """Send one small prompt all the way.

    Args:
        settings: Where to.
        model: The model to ask; None: the default one.
        provider: The registry's id.
    """
    from chutes_opencode import ChutesOpenCodeLLM

    try:
        with ChutesOpenCodeLLM(
            model, provider=provider, settings=settings, builtin_tools=False
        ) as llm:
            result = llm.prompt(LIVE_PROMPT)
        result.raise_for_error()
    except OpenCodeError as error:
        return failed("test prompt", error)
    cost = "unknown cost" if result.cost_usd is None else f"{result.cost_usd:.6f} USD"
    detail = f"{result.model} answered in {result.duration_s:.1f} s, {result.usage.total} tokens"
    return Check("test prompt", "pass", f"{detail}, {cost}")
