"""`doctor`: each line says what was found and how to fix it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import chutes_opencode
from chutes_opencode.catalog.account import KeyCheck
from chutes_opencode.catalog.catalog import Catalog
from chutes_opencode.catalog.providers import find_provider
from chutes_opencode.cli import account, checks
from chutes_opencode.cli.checks import Check
from chutes_opencode.cli.doctor import live_model
from chutes_opencode.errors import BillingError
from chutes_opencode.opencode import binary
from chutes_opencode.opencode.binary import TESTED_VERSION
from chutes_opencode.results import Usage
from chutes_opencode.settings import Settings, load_settings, user_file
from chutes_opencode.simulator import Simulator

Run = Callable[..., Any]


@dataclass
class Answer:
    """What the test prompt would get."""

    model: str = "sim/echo"
    duration_s: float = 1.25
    usage: Usage = field(default_factory=lambda: Usage(input=3, output=2))
    cost_usd: float | None = None

    def raise_for_error(self) -> None:
        """Nothing failed."""


@pytest.fixture
def opencode(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An opencode and an npm on PATH; the opencode tells its version without being run."""
    folder = home.parent / "bin"
    for name in ("opencode", "npm"):
        (folder / name).write_bytes(b"\x7fELF\0")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(binary, "ask_version", lambda path, search_path: TESTED_VERSION)
    return folder / "opencode"


def lines(shown: Any) -> dict[str, Any]:
    return {check["name"]: check for check in shown["checks"]}


def load(home: Path, **overrides: Any) -> Settings:
    return load_settings(environ={"HOME": str(home)}, cwd=home, **overrides)


def test_all_is_well_against_the_simulator(run_json: Run, opencode: Path) -> None:
    code, shown = run_json("doctor", "--simulate")

    assert code == 0
    assert shown["ok"] is True
    assert {check["status"] for check in shown["checks"]} == {"pass"}
    assert str(opencode) in lines(shown)["opencode"]["detail"]
    assert "accepted" in lines(shown)["key"]["detail"]


def test_the_table_tells_people_the_same(run: Run, opencode: Path) -> None:
    result = run("doctor", "--simulate")

    assert result.exit_code == 0
    assert f"{TESTED_VERSION} at {opencode}" in result.stdout
    assert "FAIL" not in result.stdout


def test_the_first_failure_names_the_exit_code_and_each_says_its_fix(
    run: Run, run_json: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHUTES_BASE_URL", "http://127.0.0.1:9/v1")

    code, shown = run_json("doctor")

    failed = [check for check in shown["checks"] if check["status"] == "fail"]
    assert [check["name"] for check in failed] == ["opencode", "key", "base URL"]
    assert [check["exit_code"] for check in failed] == [2, 3, 7]
    assert all(check["fix"] for check in failed)
    assert code == shown["exit_code"] == 2
    assert lines(shown)["npm"]["status"] == "warn"
    assert "fix key: " in run("doctor").stdout


def test_a_refused_key_is_3(run_json: Run, opencode: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Simulator() as simulator:
        monkeypatch.setenv("CHUTES_BASE_URL", simulator.base_url)
        monkeypatch.setenv("CHUTES_API_KEY", "cpk_somebody_else")
        code, shown = run_json("doctor")

    assert code == 3
    assert "environment CHUTES_API_KEY" in lines(shown)["key"]["detail"]
    assert "cpk_somebody_else" not in str(shown)


def test_a_malformed_key_is_3_and_not_sent(
    run_json: Run, opencode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Simulator() as simulator:
        monkeypatch.setenv("CHUTES_BASE_URL", simulator.base_url)
        monkeypatch.setenv("CHUTES_API_KEY", "schlüssel eins")
        code, _ = run_json("doctor")

    assert code == 3
    assert [request.path for request in simulator.requests] == ["/v1/models"]


def test_a_bad_settings_file_is_one_failing_line(run_json: Run, opencode: Path) -> None:
    Path("chutes-opencode.toml").write_text("retries = 0")

    code, shown = run_json("doctor")

    assert code == 2
    assert "chutes-opencode.toml:1: retries" in lines(shown)["settings"]["detail"]
    assert lines(shown)["python"]["status"] == "pass"


class TestModels:
    def test_the_list_says_where_it_is_from_and_how_well_the_cache_serves(
        self, run: Run, run_json: Run, opencode: Path, server: Any
    ) -> None:
        server.rows = [{"id": "a"}]
        for _ in range(4):
            run("models", "list")

        found = lines(run_json("doctor")[1])

        assert found["base URL"]["status"] == "pass"
        assert found["models"]["detail"] == (
            "1 model, source api, 0 s old; 75% of 4 look-ups from the cache, 2 fetches, 0 failed"
        )

    def test_an_old_list_is_a_warning_and_the_base_url_a_failure(
        self, run: Run, run_json: Run, opencode: Path, server: Any
    ) -> None:
        server.rows = [{"id": "a"}]
        run("models", "refresh")
        server.status = 404

        found = lines(run_json("doctor")[1])

        assert (found["base URL"]["status"], found["base URL"]["exit_code"]) == ("fail", 7)
        assert "HTTP 404" in found["base URL"]["detail"]
        assert found["models"]["status"] == "warn"
        assert "1 model, source cache, 0 s old" in found["models"]["detail"]

    def test_a_filter_that_hides_all_is_a_warning(
        self, run_json: Run, opencode: Path, server: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.rows = [{"id": "a"}]
        monkeypatch.setenv("CHUTES_OPENCODE_MODEL_FILTER", "b")

        found = lines(run_json("doctor")[1])

        assert found["base URL"]["status"] == "pass"
        assert found["models"]["status"] == "warn"
        assert "model_filter" in found["models"]["fix"]

    def test_a_row_that_was_skipped_is_a_warning(
        self, run_json: Run, opencode: Path, server: Any
    ) -> None:
        server.rows = [{"id": "a"}, {}]

        found = lines(run_json("doctor")[1])

        assert found["base URL"]["status"] == "warn"
        assert "row 1" in found["base URL"]["detail"]

    @pytest.mark.parametrize(("model", "status", "code"), [("a", "pass", 0), ("z/b", "fail", 6)])
    def test_the_default_model_must_be_one_of_them(
        self,
        run_json: Run,
        opencode: Path,
        server: Any,
        monkeypatch: pytest.MonkeyPatch,
        model: str,
        status: str,
        code: int,
    ) -> None:
        server.rows = [{"id": "a"}]
        monkeypatch.setenv("CHUTES_OPENCODE_DEFAULT_MODEL", model)

        found = lines(run_json("doctor")[1])

        assert found["default model"]["status"] == status
        assert found["default model"]["exit_code"] == code


class TestProvider:
    def test_a_provider_without_a_list_is_not_asked(
        self, run_json: Run, opencode: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PERPLEXITY_API_KEY", "pplx-test-0001")

        code, shown = run_json("doctor", "--provider", "perplexity")

        assert code == 0
        found = lines(shown)
        assert "offers no list" in found["base URL"]["detail"]
        assert found["models"]["status"] == "pass"
        assert found["key"]["detail"].startswith("from environment PERPLEXITY_API_KEY: not asked")

    def test_where_no_key_is_needed_none_is_missed(self, run_json: Run, opencode: Path) -> None:
        _, shown = run_json("doctor", "--provider", "ollama")

        assert lines(shown)["key"]["status"] == "pass"

    def test_an_unknown_one_is_one_failing_line(self, run_json: Run, opencode: Path) -> None:
        code, shown = run_json("doctor", "--provider", "olama")

        assert code == 2
        assert "ollama" in lines(shown)["settings"]["detail"]

    @pytest.mark.parametrize(
        ("provider", "simulate", "model"),
        [("chutes", True, "sim/echo"), ("chutes", False, None), ("perplexity", False, "sonar")],
    )
    def test_the_test_prompt_has_a_model(
        self, home: Path, provider: str, simulate: bool, model: str | None
    ) -> None:
        catalog = Catalog(provider, settings=load(home))

        assert live_model(catalog, simulate=simulate) == model


def test_live_sends_a_prompt(
    run_json: Run, opencode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Llm:
        def __init__(self, model: str | None, **options: Any) -> None:
            made.append((model, options["settings"].is_loopback))

        def __enter__(self) -> Llm:
            return self

        def __exit__(self, *_: object) -> None:
            made.append("closed")

        def prompt(self, text: str) -> Answer:
            return Answer()

    monkeypatch.setattr(chutes_opencode, "ChutesOpenCodeLLM", Llm, raising=False)

    code, shown = run_json("doctor", "--simulate", "--live")

    assert code == 0
    assert "sim/echo answered in 1.2 s, 5 tokens" in lines(shown)["test prompt"]["detail"]
    assert made == [("sim/echo", True), "closed"]


def test_a_live_prompt_that_fails_names_its_kind(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise BillingError(raw_message="no balance")

    monkeypatch.setattr(chutes_opencode, "ChutesOpenCodeLLM", refuse, raising=False)

    check = checks.check_live(load(home))

    assert (check.status, check.detail, check.exit_code) == ("fail", "no balance", 4)


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 4), "fail"), ((3, 11, 0), "pass"), ((4, 0, 0), "pass")]
)
def test_python_is_held_against_the_oldest_supported(
    version: tuple[int, int, int], status: str
) -> None:
    assert checks.check_python(version).status == status


@pytest.mark.parametrize(
    ("system", "status"), [("linux", "pass"), ("darwin", "warn"), ("win32", "fail")]
)
def test_the_platform_is_named(system: str, status: str) -> None:
    check = checks.check_platform(system)

    assert check.status == status
    assert bool(check.fix) == (status != "pass")


def test_a_newer_opencode_is_a_warning(
    home: Path, opencode: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "ask_version", lambda path, search_path: "9.0.0")

    check = checks.check_opencode(load(home), str(opencode.parent))

    assert check.status == "warn"
    assert "newer than" in check.detail
    assert check.fix


@pytest.mark.parametrize(
    ("base_url", "status"),
    [("https://llm.chutes.ai/v1", "warn"), ("https://llm.example.org/v1", "pass")],
)
def test_a_key_that_nobody_judged_is_a_warning_only_where_somebody_could(
    home: Path, monkeypatch: pytest.MonkeyPatch, base_url: str, status: str
) -> None:
    monkeypatch.setattr(account, "check_key", lambda settings: KeyCheck("unknown", "offline"))

    check = checks.check_account(load(home, base_url=base_url, api_token="cpk_doctor_0001"))

    assert check.status == status


def test_a_folder_that_cannot_be_written_is_2(home: Path) -> None:
    (home / "file").write_text("in the way")

    check = checks.check_folder("home folder", home / "file" / "x", "CHUTES_OPENCODE_HOME")

    assert (check.status, check.exit_code) == ("fail", 2)
    assert "CHUTES_OPENCODE_HOME" in check.fix


def test_a_project_that_redirects_the_users_key_is_a_warning(home: Path) -> None:
    (home / "chutes-opencode.toml").write_text("base_url = 'https://llm.example.org/v1'")

    (check,) = checks.check_key_destination(load(home, api_token="cpk_doctor_0001"))

    assert check.status == "warn"
    assert "https://llm.example.org/v1" in check.detail


def test_a_projects_provider_that_is_given_the_users_key_is_a_warning(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "chutes-opencode-providers.toml"
    file.write_text("[providers.grok]\nbase_url = 'https://llm.example.org/v1'")
    monkeypatch.setenv("XAI_API_KEY", "xai-doctor-0001")
    grok = find_provider("grok", files=[file])

    (check,) = checks.check_key_destination(load(home).for_provider(grok))

    assert check.detail == (
        f"{file}:1 sends your key (from environment XAI_API_KEY) to https://llm.example.org/v1"
    )


def test_the_users_own_choice_of_host_is_no_warning(home: Path) -> None:
    settings = load(home, base_url="https://llm.example.org/v1", api_token="cpk_doctor_0001")

    assert list(checks.check_key_destination(settings)) == []


@pytest.mark.parametrize(
    ("text", "mode", "warned"),
    [
        ("api_token = 'cpk_doctor_0001'", 0o644, True),
        ("apiToken = 'cpk_doctor_0001'", 0o640, True),
        ("api_token = 'cpk_doctor_0001'", 0o600, False),
        ("retries = 5", 0o644, False),
    ],
)
def test_a_key_that_others_can_read_is_a_warning(
    home: Path, text: str, mode: int, warned: bool
) -> None:
    path = home / "config.toml"
    path.write_text(text)
    path.chmod(mode)

    assert bool(list(checks.check_file_mode(path))) is warned


def test_no_settings_file_is_no_warning() -> None:
    assert list(checks.check_file_mode(user_file({"HOME": "/nowhere"}))) == []


def test_dead_workspaces_are_removed_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chutes_opencode.opencode import workspace

    assert checks.check_workspaces(tmp_path) == Check("dead workspaces", "pass", "none")
    assert checks.check_workspaces(tmp_path / "missing").detail == "none"

    monkeypatch.setattr(workspace, "sweep", lambda folder: 3)
    assert checks.check_workspaces(tmp_path).detail == "3 removed"
