"""An empty home and project to load settings from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chutes_opencode.errors import ConfigurationError
from chutes_opencode.settings import (
    Settings,
    load_settings,
    project_file,
    user_file,
)

KEY = "cpk_settings_test_0001"
Load = Callable[..., Settings]


class Place:
    """An empty home and project; loads the settings from there and from nowhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.environ = {"HOME": str(root / "home")}
        self.project.mkdir()
        self.user_file = user_file(self.environ)
        self.user_file.parent.mkdir(parents=True)
        self.project_file = project_file(self.project)

    def load(self, environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
        return load_settings(environ=self.environ | (environ or {}), cwd=self.project, **overrides)

    def refusal(self, environ: dict[str, str] | None = None, **overrides: Any) -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.load(environ, **overrides)
        return caught.value.raw_message

    def store_opencode_key(self, content: str) -> Path:
        path = self.root / "home" / ".local" / "share" / "opencode" / "auth.json"
        path.parent.mkdir(parents=True)
        path.write_text(content)
        return path
