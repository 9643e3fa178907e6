"""The steps of a decoder's loop: how long they take, who was in them, what they cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence

from lowbeam_worker.energy.cost import StepCost
from lowbeam_worker.energy.ledger import Ledger
from lowbeam_worker.engines.continuous import Member
from lowbeam_worker.engines.generation import Generation


class Steps:
    """Times the steps, in the loop's thread, and tells the ledger who was in them."""

    def __init__(self, ledger: Ledger, running: Mapping[str, Generation]) -> None:
        self.cost = StepCost()
        self.count = self.tokens = 0
        self._ledger = ledger
        self._running = running
        self._nobody = ledger.open_account(time.monotonic())
        """Pays for a member whose client left in this very moment."""
        self._lock = threading.Lock()
        self._open: tuple[float, Sequence[Member]] | None = None

    def step_begins(self, now_s: float, members: Sequence[Member]) -> None:
        """Charge those who are in it from now on."""
        with self._lock:
            self._open = (now_s, members)
        generations = [self._running.get(member.name) for member in members]
        weights = self.cost.weights([(member.tokens, member.decodes) for member in members])
        self._ledger.begin_step(
            now_s,
            [
                (generation.account if generation else self._nobody, weight)
                for generation, weight in zip(generations, weights, strict=True)
            ],
            time.process_time(),
            self,
        )

    def step_ends(self, now_s: float) -> None:
        """Learn what it cost."""
        self._ledger.end_step(now_s, time.process_time(), self)
        with self._lock:
            began, self._open = self._open, None
        if began is None:
            return
        self.count += 1
        self.tokens += sum(member.tokens for member in began[1])
        self.cost.learn([(member.tokens, member.decodes) for member in began[1]], now_s - began[0])

    def seconds_in_step(self, now_s: float) -> float:
        """How long the present step has been running; 0 between steps."""
        with self._lock:
            return now_s - self._open[0] if self._open else 0.0
