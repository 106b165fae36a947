"""Archives of start caches on the controller."""

from __future__ import annotations

import hashlib
from pathlib import Path

from provision.features.start_cache.sharing import MOST_ARCHIVES, Archives


def test_the_controller_keeps_the_newest_archives_of_an_inventory(tmp_path: Path) -> None:
    mine, other = Archives(tmp_path, "/site/hosts.yml"), Archives(tmp_path, "/other/hosts.yml")
    for number in range(MOST_ARCHIVES + 2):
        mine.put(f"{number:016x}", f"{number}".encode())
    found = mine.find(f"{MOST_ARCHIVES + 1:016x}")
    assert found is not None
    assert found.sha256 == hashlib.sha256(Path(found.path).read_bytes()).hexdigest()
    assert (other.find(f"{5:016x}"), mine.find(f"{0:016x}")) == (None, None)
    assert len([*Path(found.path).parent.iterdir()]) == MOST_ARCHIVES
    assert Path(found.path).parent.stat().st_mode & 0o777 == 0o700
