"""A simulator of the Chutes API: deterministic replies, faults as data, a bill of every request.

Shares no code with the rest of the package but `loopback`, so that it cannot share its bugs.
"""

from chutes_opencode.simulator.answers import Fault
from chutes_opencode.simulator.billing import Bill, BillEntry, BillTotal
from chutes_opencode.simulator.faults import FAULTS, fault_names
from chutes_opencode.simulator.recording import RecordedRequest
from chutes_opencode.simulator.script import Rule, Scenario, ScenarioError, load_scenario
from chutes_opencode.simulator.server import DEFAULT_API_TOKEN, Simulator, run_forever

__all__ = [
    "DEFAULT_API_TOKEN",
    "FAULTS",
    "Bill",
    "BillEntry",
    "BillTotal",
    "Fault",
    "RecordedRequest",
    "Rule",
    "Scenario",
    "ScenarioError",
    "Simulator",
    "fault_names",
    "load_scenario",
    "run_forever",
]
