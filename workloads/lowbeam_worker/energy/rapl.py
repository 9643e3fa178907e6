"""The CPU packages' own energy counters (RAPL), where this process may read them.

They are readable by root only since CVE-2020-8694, container runtimes mask them, and most virtual machines have none:
mount the folder into the pod and name it in LOWBEAM_POWERCAP to use them. A package's counter covers everything that
runs on it, so its scope is `shared` and what comes of it an estimate. Domains that are counted: packages and their
DRAM; a package's cores are inside it already.

Invariant: the sum only grows. A domain's counter wraps at its `max_energy_range_uj`, which is added back here.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from lowbeam.api.wire import DeviceReading, MeterMethod, MeterScope
from lowbeam_worker.energy.boards import NoMeterError, Reading

DEFAULT_FOLDER = "/sys/class/powercap"


@dataclass(slots=True)
class _Domain:
    folder: Path
    name: str
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def advance(self) -> int:
        """Microjoules since it was opened."""
        now_uj = _number(self.folder / "energy_uj")
        difference = now_uj - self.last_uj
        self.total_uj += difference if difference >= 0 else difference + self.range_uj
        self.last_uj = now_uj
        return self.total_uj


class Packages:
    """Open RAPL domains; a `Source` of the meter."""

    method = MeterMethod.RAPL
    scope = MeterScope.SHARED
    name = "powercap energy_uj of packages and their DRAM"

    def __init__(self, folder: Path | None = None) -> None:
        """Raises NoMeterError when there is no domain, or it may not be read."""
        root = folder or Path(os.environ.get("LOWBEAM_POWERCAP", DEFAULT_FOLDER))
        self._domains: list[_Domain] = []
        self._why: str | None = None
        for found in sorted(root.glob("intel-rapl:*")):
            try:
                name = (found / "name").read_text(encoding="ascii").strip()
                if name.startswith("package-") or name == "dram":
                    range_uj, now_uj = _number(found / "max_energy_range_uj"), _number(found / "energy_uj")
                    self._domains.append(_Domain(found, f"{found.name}/{name}", range_uj, now_uj))
            except (OSError, ValueError) as error:
                raise NoMeterError(
                    f"the CPU's energy counters in {root} cannot be read ({error}); they are for root only: mount them "
                    "into the pod, readable, and name the folder in LOWBEAM_POWERCAP"
                ) from error
        if not self._domains:
            raise NoMeterError(f"there are no energy counters of the CPU in {root}")

    def read(self) -> Reading:
        """Read every domain now."""
        at_unix_s, at_monotonic_s = time.time(), time.monotonic()
        try:
            totals_uj = [domain.advance() for domain in self._domains]
        except (OSError, ValueError) as error:
            self._why = f"the CPU's energy counters cannot be read any more ({error})"
            return Reading((), at_unix_s, at_monotonic_s, None, None)
        self._why = None
        devices = tuple(
            DeviceReading(uuid=domain.name, joules_total=total_uj / 1e6)
            for domain, total_uj in zip(self._domains, totals_uj, strict=True)
        )
        return Reading(devices, at_unix_s, at_monotonic_s, sum(totals_uj) // 1000, None)

    def why_unreadable(self) -> str | None:
        """What the last `read` met, or None."""
        return self._why

    def close(self) -> None:
        """There is nothing to give back."""


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))
