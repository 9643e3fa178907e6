"""What became of every request: answered, refused as it should be, left by its client, held back, lost or wrong."""

from __future__ import annotations

from collections import Counter

_SHOWN = 20


class Tally:
    """Counts of one worker's requests. `lost` and `wrong` must stay empty."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """Poison, refused with the status that it deserves."""
        self.left: Counter[str] = Counter()
        """Requests whose client went away on purpose."""
        self.held_back: Counter[str] = Counter()
        """Refusals with 429, by their code; each was sent again."""
        self.compared = 0
        """Answers whose content was checked against what is known to be right."""
        self.joules = 0.0
        """Stated in answers."""
        self.problems: list[str] = []
        """The first of them, in words."""
        self.lost_count = self.wrong_count = 0

    def lose(self, kind: str, why: str) -> None:
        """A good request without an answer."""
        self.lost_count += 1
        self._say(f"lost ({kind}): {why}")

    def wrong(self, kind: str, why: str) -> None:
        """An answer that is not what it should be."""
        self.wrong_count += 1
        self._say(f"wrong ({kind}): {why}")

    def _say(self, text: str) -> None:
        if len(self.problems) < _SHOWN:
            self.problems.append(text[:500])
