"""What this worker grants its clients: the length of answers and of thinking, the rate of requests, and its watts.

Pure: times and watts come in as arguments. The control port replaces the values while requests run; a request keeps
what it was granted when it came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """Lengths of answers, in tokens."""

    longest: int
    """The most that a client may ask for."""
    usual: int
    """What it gets when it does not ask; at most `longest`."""
    most_thinking: int | None = None
    """The most thinking that is granted; None: no ceiling."""
    usual_thinking: int | None = None
    """What a request gets that does not say; None: thinking ends by itself."""

    def thinking(self, asked: int | None) -> int | None:
        """Tokens of thinking that a request gets; None: as many as it likes. More than the ceiling is cut, not refused.

        A budget is a wish about effort, and an answer that thought less is still an answer.
        """
        wanted = self.usual_thinking if asked is None else asked
        known = [value for value in (wanted, self.most_thinking) if value is not None]
        return min(known) if known else None


class Admission:
    """Lets requests in at a rate (a token bucket of one second), and only while the device is within its watts."""

    def __init__(self) -> None:
        self.requests_per_second: float | None = None
        """None: no limit."""
        self.power_budget_watts: float | None = None
        """None: no limit."""
        self._ready = 0.0
        self._at_s = -math.inf

    def limit_rate(self, requests_per_second: float | None) -> None:
        """From the next request on; the bucket is never fuller than the new rate allows."""
        self.requests_per_second = requests_per_second
        if requests_per_second is not None:
            self._ready = min(self._ready, max(1.0, requests_per_second))

    def seconds_to_wait(self, now_s: float) -> int | None:
        """None: come in, and that counts. Otherwise in how many whole seconds there is room again."""
        rate = self.requests_per_second
        if rate is None:
            return None
        most = max(1.0, rate)
        self._ready = most if math.isinf(self._at_s) else min(most, self._ready + (now_s - self._at_s) * rate)
        self._at_s = now_s
        if self._ready >= 1:
            self._ready -= 1
            return None
        return max(1, math.ceil((1 - self._ready) / rate))

    def over_budget(self, watts: float | None) -> bool:
        """True when the device is known to use more than it may; an unknown reading holds nobody back."""
        return self.power_budget_watts is not None and watts is not None and watts > self.power_budget_watts
