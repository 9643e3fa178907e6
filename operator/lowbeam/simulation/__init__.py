"""A virtual cluster and clock around the same planning and power code that the operator runs.

run_scenario(path or Scenario) -> Report      format_report(report) -> str, 80 columns
"""

from __future__ import annotations

from lowbeam.simulation.report import Report, format_report
from lowbeam.simulation.run import run_scenario
from lowbeam.simulation.scenario import Scenario, load_scenario

__all__ = ["Report", "Scenario", "format_report", "load_scenario", "run_scenario"]
