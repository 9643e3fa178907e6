"""A replacement share by share: old replicas end as new ones come up, where both do not fit side by side.

Decides how many new replicas may exist beside the old ones that are left, and how many old ones go next. Counts go
straight from what there is at the start to all new: so watts and boards of both together are at no time more than the
larger of what there was and what there will be, which is what break-before-make is charged with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Roll:
    """Replicas that there were when the replacement was decided, or taken up by a new leader."""

    old: int
    """Of the other placement; at least 1."""
    new: int = 0
    """Of the target's placement, those that there is room for at once among them."""

    def allowed(self, replicas: int, old_left: int) -> int:
        """How many of `replicas` new ones may exist beside `old_left` old ones, those on their way out among them."""
        return self._new_times_old(replicas, old_left) // self.old

    def allowed_milliwatts(self, replicas: int, old_left: int, each_milliwatts: int) -> int:
        """Upper bound of what these may draw, without steps: it never rises again while old ones go."""
        return -(-self._new_times_old(replicas, old_left) * each_milliwatts // self.old)

    def old_next(self, replicas: int, old_left: int, new: int) -> int:
        """How many old ones stay so that more than `new` new ones may exist; 0 also when those are all."""
        fewer = range(min(old_left, self.old + 1) - 1, 0, -1)
        return next((left for left in fewer if self.allowed(replicas, left) > new), 0)

    def _new_times_old(self, replicas: int, old_left: int) -> int:
        begun = min(self.new, replicas)
        gone = max(0, self.old - old_left)
        return begun * self.old + (replicas - begun) * gone
