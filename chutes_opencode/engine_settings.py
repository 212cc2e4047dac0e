"""The settings of what runs prompts: how many at once, how long each phase, when to start anew."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from chutes_opencode.settings_fields import Count, Interval, Lower, Seconds

_OF_THE_PROCESS = "of this process: the newest instance's value holds"


class EngineSettings(BaseModel):
    """A part of `Settings`."""

    engine: Annotated[Literal["auto", "run", "serve", "direct"], Lower] = Field(
        "auto", description="The engine of instances that leave it at auto."
    )
    timeout_seconds: Seconds = Field(600.0, description="What one attempt may take, in seconds.")
    deadline_seconds: Seconds | None = Field(
        None, description="What a whole call may take, waits included, in seconds; None: no end."
    )
    retries: Count = Field(3, description="Attempts in all for one model step.")
    max_process_cost_usd: Interval | None = Field(
        None, description="US dollars that all prompts of this process may cost; None: no limit."
    )
    max_processes: Count = Field(
        default_factory=lambda: max(2, os.cpu_count() or 1),
        description="How many cold opencode processes may run at once.",
    )
    max_sessions: Count = Field(
        64, description="How many prompts may run at once on warm servers, or without opencode."
    )
    start_seconds: Seconds = Field(
        120.0, description="How long opencode may take to its first model request, in seconds."
    )
    first_byte_seconds: Seconds = Field(
        300.0, description="How long a model's answer may take to begin, in seconds."
    )
    idle_seconds: Seconds = Field(
        120.0, description="How long a stream may be silent once it has begun, in seconds."
    )
    tool_seconds: Seconds = Field(
        600.0, description="How long the agent's tools may run between two model requests."
    )
    finish_seconds: Seconds = Field(
        30.0, description="How long opencode may take to end after the last answer, in seconds."
    )
    # The servers are the process's: what the newest instance says holds for all of them.
    max_servers: Count = Field(
        4, description=f"How many warm opencode servers may run at once; {_OF_THE_PROCESS}."
    )
    server_idle_seconds: Seconds = Field(
        300.0,
        description="After how many seconds without a prompt a warm server is stopped; "
        f"{_OF_THE_PROCESS}.",
    )
    server_max_prompts: Count = Field(
        2000, description=f"After how many prompts a warm server is replaced; {_OF_THE_PROCESS}."
    )
    server_max_mib: Count = Field(
        2500,
        ge=512,
        description="At how many MiB of memory a warm server is replaced, once it has grown by a "
        f"quarter (opencode itself needs 400 to 800); {_OF_THE_PROCESS}.",
    )
    server_max_disk_mib: Count = Field(
        4096,
        ge=64,
        description="At how many MiB of data on the disk (database, cut tool outputs) a warm "
        f"server is replaced; {_OF_THE_PROCESS}.",
    )
    server_max_folders: Count = Field(
        256,
        description="After how many work folders (6 to 25 MiB each) a warm server is replaced; "
        f"{_OF_THE_PROCESS}.",
    )
