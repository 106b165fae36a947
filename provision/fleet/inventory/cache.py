"""Cache of what Ansible reads of inventories: it needs most of a second, and inventories rarely change.

The key covers everything that influences the result: inventory files, ansible.cfg and the reader. Inventories with other inputs
(lookups, dynamic sources, vaults) are not cached. What OpenSSH says of hosts is asked each time.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from provision.core.files import write_atomically
from provision.core.folders import cache_folder
from provision.fleet.inventory.yaml_source import files_of

READER = Path(__file__).with_name("ansible_reader.py")
KEPT = 32
"""Maximum number of entries; the oldest are removed first."""

_UNPINNED = re.compile(
    rb"lookup\s*\(|query\s*\(|\bq\s*\(|\bnow\s*\(|\$ANSIBLE_VAULT|^plugin\s*:|random|\bpipe\b|^#!", re.MULTILINE
)


def folder() -> Path:
    """Return the folder of all entries."""
    return cache_folder() / "inventory"


def key(source: Path, limit: str | None) -> str | None:
    """Return the key of an inventory; None when it must not be cached."""
    digest = hashlib.sha256()
    for file in files_of(source):
        if _UNPINNED.search(_add(digest, file)) or os.access(file, os.X_OK):
            return None
    for file in [*_ansible_files(), READER]:
        _add(digest, file)
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("ANSIBLE_"))
    digest.update(json.dumps([str(source.absolute()), limit, os.getuid(), sys.version, settings]).encode())
    return digest.hexdigest()


def get(name: str) -> Any:
    """Return the entry; None when missing or damaged."""
    try:
        return json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def put(name: str, value: Any) -> None:
    """Store an entry; an unwritable cache is ignored."""
    try:
        write_atomically(folder() / f"{name}.json", json.dumps(value), mode=0o600)
        for old in sorted(folder().glob("*.json"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return


def _add(digest: Any, file: Path) -> bytes:
    try:
        content, there = file.read_bytes(), True
    except OSError:
        content, there = b"", False
    digest.update(f"{file} {len(content)} {there}\n".encode())
    digest.update(content)
    return content


def _ansible_files() -> list[Path]:
    named = os.environ.get("ANSIBLE_CONFIG")
    return [
        *([Path(named)] if named else []),
        Path("ansible.cfg").absolute(),
        Path.home() / ".ansible.cfg",
        Path("/etc/ansible/ansible.cfg"),
    ]
