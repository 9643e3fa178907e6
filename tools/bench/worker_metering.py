"""What metering itself costs, as CPU seconds: the ledger's calls for one step, and one sample of the meter.

A process of its own, with the stand-in for NVIDIA's library where LD_LIBRARY_PATH names it; prints one JSON object.

A difference of under 1 % between runs with and without metering drowns in the noise of any machine; the cost of the
calls themselves does not.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from lowbeam_worker.energy.cost import StepCost
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.energy.meter import SAMPLE_SECONDS, open_meter

MEMBERS = (1, 8, 32)
_CALLS = 5000


def main() -> None:
    """Seconds of CPU per step by how many are in it, and per second of sampling."""
    found = {f"step {members}": _per_call(_step(members)) for members in MEMBERS}
    meter = open_meter((), Ledger())
    meter.settle()
    found["sampling"] = _per_call(meter.sample) / SAMPLE_SECONDS
    found["metered"] = float(meter.counts_energy)
    json.dump(found, sys.stdout)


def _step(members: int) -> Callable[[], None]:
    ledger, cost = Ledger(), StepCost()
    ledger.observe(0.0, 0)
    accounts = [ledger.open_account(0.0) for _ in range(members)]
    kinds = [(1 if index else 40, bool(index)) for index in range(members)]

    def step() -> None:
        weights = cost.weights(kinds)
        ledger.begin_step(time.monotonic(), list(zip(accounts, weights, strict=True)), time.process_time())
        now_s = time.monotonic()
        ledger.end_step(now_s, time.process_time())
        cost.learn(kinds, 0.01)

    return step


def _per_call(work: Callable[[], None]) -> float:
    began = time.process_time()
    for _ in range(_CALLS):
        work()
    return (time.process_time() - began) / _CALLS


if __name__ == "__main__":
    main()
