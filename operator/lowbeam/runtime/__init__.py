"""When to look, plan, guard and write: the effects around the pure core."""

from lowbeam.runtime.application import Application
from lowbeam.runtime.clock import Clock, SystemClock
from lowbeam.runtime.logging import configure_logging
from lowbeam.runtime.settings import OperatorSettings, read_control_key, settings_from_environment

__all__ = [
    "Application",
    "Clock",
    "OperatorSettings",
    "SystemClock",
    "configure_logging",
    "read_control_key",
    "settings_from_environment",
]
