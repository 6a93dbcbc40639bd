"""What a campaign found, as a table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.witness import Comparison

TWO_AT_ONCE = "two at once"


@dataclass
class Findings:
    """Figures of one campaign.

    `recoveries_s`: from the end of a fault to the next row in the archive, by kind;
    `stalls`: kinds after which none came in time. `holes` are rows that the archive
    has noted as gone for good.
    """

    faults: Counter[str] = field(default_factory=Counter)
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    stalls: list[str] = field(default_factory=list)
    ended_alone: list[str] = field(default_factory=list)
    writer_kills: int = 0
    tampered_chunks: int = 0
    quarantined: int = 0
    holes: int = 0
    seconds: float = 0.0
    drained_s: float = 0.0
    comparison: Comparison | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing was lost, altered, doubled or out of order."""
        assert self.comparison is not None
        return self.comparison.is_whole(self.writer_kills) and self.holes == 0

    def table(self) -> str:
        """Return the figures as text."""
        assert self.comparison is not None
        found = self.comparison
        lines = [
            ("seconds", f"{self.seconds:.0f} and {self.drained_s:.1f} to drain"),
            ("rows witnessed", str(found.witnessed)),
            ("rows archived", str(found.archived)),
            ("lost", str(found.lost)),
            ("altered", str(found.altered)),
            ("doubled", str(found.doubled)),
            ("out of order", str(found.disordered)),
            ("under another name", str(found.foreign)),
            ("rows noted as gone", str(self.holes)),
            (
                "archived, writer killed before the witness",
                f"{found.unwitnessed} (kills of the writer: {self.writer_kills})",
            ),
            ("chunks altered on the way", str(self.tampered_chunks)),
            ("messages in quarantine", str(self.quarantined)),
            ("programs that ended by themselves", ", ".join(self.ended_alone) or "0"),
            ("nothing archived in time after", ", ".join(self.stalls) or "0"),
            ("whole again to first archived row", _spread(self._all_recoveries())),
            (
                "  of which after two faults at once",
                _spread(self.recoveries_s.get(TWO_AT_ONCE, [])),
            ),
            ("faults", str(self.faults.total())),
        ]
        lines += [
            (f"  {kind}", f"{count}, {_spread(self.recoveries_s.get(kind, []))}")
            for kind, count in sorted(self.faults.items())
        ]
        return "\n".join(f"{name:<44}{value}" for name, value in lines)

    def _all_recoveries(self) -> list[float]:
        return [seconds for found in self.recoveries_s.values() for seconds in found]


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "not measured"
    median, most = statistics.median(seconds), max(seconds)
    return f"median {median:.2f} s, max {most:.2f} s, of {len(seconds)}"
