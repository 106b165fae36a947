"""What the checks before a start found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """Findings. `problems` prevent the start of the server, `notes` do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)
