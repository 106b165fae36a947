"""Progress of a build, parsed from ninja's output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable  # noqa: UP035 (for Python 3.8)

_STEP = re.compile(r"^\[(\d+)/(\d+)\] ")
_UNIT = re.compile(r"^build [^:]+: (?!phony\b)", re.MULTILINE)


class Units:
    """Counts compiled units. A resumed ninja counts only the rest, so the total comes from its plan."""

    def __init__(self, source: Path, report: Callable[[int, int], None]) -> None:
        self._source = source
        self._report = report
        self._before = 0
        self._left = 0
        self._total = 0

    def see(self, line: str) -> None:
        """Parse a line of the build's output."""
        step = _STEP.match(line)
        if not step:
            return
        number, left = int(step.group(1)), int(step.group(2))
        if number == 1 or left != self._left:
            self._left = left
            planned = sum(len(_UNIT.findall(path.read_text(errors="replace"))) for path in self._plans())
            self._total = max(planned, self._before + left)
            self._before = self._total - left
        self._report(self._before + number, self._total)

    def _plans(self) -> list[Path]:
        return sorted(self._source.glob("build/**/build.ninja"))
