"""The emulator: plays the workers and node agents of KWOK pods. A test and demo part; the operator never imports it.

KWOK gives pods an address and a Ready condition, but nothing runs in them. The emulator answers on those addresses like
lowbeam-worker and lowbeam-agent would: telemetry, the control port and power limits, with watts, queues and energy
counters computed from the energy profiles of the catalogue at the offered load. Every worker says `method: emulated`
and every board has it in its uuid, so that nobody takes them for a measurement.

Invariants: it writes nothing to the cluster; it serves pods on nodes annotated `kwok.x-k8s.io/node=fake` and no others;
same seed, same times, same figures.
"""

from lowbeam.emulator.faults import Fault
from lowbeam.emulator.fleet import Fleet, FleetSettings
from lowbeam.emulator.load import LoadTrace
from lowbeam.emulator.replica import Pace
from lowbeam.emulator.session import Emulator

__all__ = ["Emulator", "Fault", "Fleet", "FleetSettings", "LoadTrace", "Pace"]
