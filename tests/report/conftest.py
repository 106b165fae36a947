"""Two runs of this machine, for tests of commands on past runs."""

from pathlib import Path

import pytest

from provision.report import summarise, write
from tests.report.sample import NEWER, OLDER, ran


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Two runs: one with its summary, a newer one that was killed."""
    for name in (OLDER, NEWER):
        folder = ran(tmp_path / name)
        if name == OLDER:
            write(folder.run, summarise(folder.run))
    (tmp_path / "latest").symlink_to(NEWER)
    (tmp_path / "README.md").write_text("about\n", encoding="utf-8")
    return tmp_path
