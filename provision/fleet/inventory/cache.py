"""Cache of what Ansible reads of inventories: it needs a third of a second, and inventories rarely change.

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

READER = Path(__file__).with_name("ansible_reader.py")
KEPT = 32
"""Maximum number of entries; the oldest are removed first."""

_UNPINNED = re.compile(
    rb"lookup\s*\(|query\s*\(|\bq\s*\(|\bnow\s*\(|\$ANSIBLE_VAULT|^plugin\s*:|random|\bpipe\b|^#!", re.MULTILINE
)


def folder() -> Path:
    """Return the folder of all entries."""
    return cache_folder() / "inventory"


def files_of(source: Path) -> list[Path]:
    """Return every file of an inventory, including its variables, each once."""
    folders = (Path.cwd(), source if source.is_dir() else source.parent)  # Ansible reads both
    roots = [source, *(folder / name for folder in folders for name in ("group_vars", "host_vars"))]
    files: list[Path] = []
    for root in roots:
        if root.is_dir():  # walked with os, as Path.rglob passes over folders behind links
            found = (Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names)
            files += sorted(path for path in found if path.is_file() and not path.name.startswith("."))
        elif root.exists():
            files.append(root)
    return list({file.absolute(): file for file in files}.values())


def key(source: Path, limit: str | None) -> str | None:
    """Return the key of an inventory; None when it must not be cached."""
    contents = {file: _content(file) for file in files_of(source)}
    if any(_UNPINNED.search(content) or os.access(file, os.X_OK) for file, content in contents.items()):
        return None
    named = os.environ.get("ANSIBLE_CONFIG", "ansible.cfg")
    for name in (named, "ansible.cfg", Path.home() / ".ansible.cfg", "/etc/ansible/ansible.cfg", READER):
        file = Path(name).absolute()
        contents[file] = _content(file)
    sums = {str(file): hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("ANSIBLE_"))
    inputs = [sums, str(source.absolute()), limit, os.getuid(), sys.version, settings]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


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


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
