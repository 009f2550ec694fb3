"""How long a phase would take: its parts, the seconds of each, and how that is said."""

from dataclasses import dataclass

MINUTE, HOUR, DAY = 60, 3600, 86400


@dataclass(frozen=True)
class Estimate:
    """A phase by its parts, each a description and its seconds. No parts: the phase has finished.

    `unknown`: what comes on top and is not estimated; `measured`: parts of what is measured after the phase.
    """

    phase: str
    parts: tuple[tuple[str, float], ...] = ()
    unknown: str = ""
    measured: tuple[tuple[str, float], ...] = ()

    @property
    def seconds(self) -> float:
        """All parts together."""
        return sum(seconds for _, seconds in (*self.parts, *self.measured))

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.parts and not self.measured

    @property
    def dominant(self) -> str:
        """What takes longest, and what is not in the time."""
        longest = max((*self.parts, *self.measured), key=lambda part: part[1])[0] if not self.finished else ""
        return f"{longest}; without {self.unknown}" if self.unknown else longest

    @property
    def time(self) -> str:
        """The time in words."""
        if self.unknown and not self.parts:
            return "unknown"
        return "finished" if self.finished else in_words(self.seconds, bool(self.unknown))


def in_words(seconds: float, at_least: bool = False) -> str:
    """A time to two digits, in the unit that suits it.

    >>> in_words(0.3), in_words(42.4), in_words(200), in_words(9000, at_least=True), in_words(400_000)
    ('under 1 s', 'about 42 s', 'about 3 min', 'at least 2.5 h', 'about 4.6 days')
    """
    if seconds < 1:
        return f"at least {seconds:.1f} s" if at_least else "under 1 s"
    if seconds < 1.5 * MINUTE:
        words = f"{seconds:.0f} s"
    elif seconds < 1.5 * HOUR:
        words = f"{seconds / MINUTE:.0f} min"
    elif seconds < 1.5 * DAY:
        words = f"{seconds / HOUR:.1f} h"
    else:
        words = f"{seconds / DAY:.1f} days"
    return f"{'at least' if at_least else 'about'} {words}"
