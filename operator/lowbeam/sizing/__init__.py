"""From what a workload needs to every way to run it: requirements, feasibility, operating points, options."""

from __future__ import annotations

from lowbeam.sizing.cost import Cost, Prices, cost_of
from lowbeam.sizing.inventory import Inventory
from lowbeam.sizing.operating_point import OperatingPoint, Quantiles
from lowbeam.sizing.options import Option, OptionSet, Rejection
from lowbeam.sizing.requirements import Demand, Refusal, Requirements, requirements_of
from lowbeam.sizing.size import Sizer, options_for

__all__ = [
    "Cost",
    "Demand",
    "Inventory",
    "OperatingPoint",
    "Option",
    "OptionSet",
    "Prices",
    "Quantiles",
    "Refusal",
    "Rejection",
    "Requirements",
    "Sizer",
    "cost_of",
    "options_for",
    "requirements_of",
]
