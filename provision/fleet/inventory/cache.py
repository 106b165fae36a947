"""Cache of read inventories: Ansible needs most of a second, and inventories rarely change.

The key covers everything that influences the result: inventory files, ssh configuration with includes, ansible.cfg and
this package. Inventories with other inputs (lookups, dynamic sources, vaults, `Match exec`) are not cached, and none with a
password.
"""

import glob
import hashlib
import json
import os
import pwd
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from provision.core.files import write_atomically
from provision.core.folders import cache_folder
from provision.fleet.inventory.yaml_source import files_of

KEPT = 32
"""Maximum number of entries; the oldest are removed first."""

_UNPINNED_INVENTORY = re.compile(
    rb"lookup\s*\(|query\s*\(|\bq\s*\(|\bnow\s*\(|\$ANSIBLE_VAULT|^plugin\s*:|random|\bpipe\b|^#!", re.MULTILINE
)
_UNPINNED_SSH = re.compile(
    rb"^\s*(match\b.*\b(exec|localnetwork)\b|canonicalizehostname\s+(yes|always))", re.MULTILINE | re.IGNORECASE
)
_CONFIGURATION = re.compile(r"-F[\s\"']*([^\s\"']+)")
_INCLUDE = re.compile(r"^\s*include(?:\s*=\s*|\s+)(.+)$", re.IGNORECASE | re.MULTILINE)


def folder() -> Path:
    """Return the folder of all entries."""
    return cache_folder() / "inventory"


def key(source: Path, limit: str | None) -> str | None:
    """Return the key of an inventory; None when it must not be cached."""
    digest = hashlib.sha256()
    inventory = files_of(source)
    named: list[str] = []
    for file in inventory:
        content = _add(digest, file)
        if _UNPINNED_INVENTORY.search(content) or os.access(file, os.X_OK):
            return None
        named += _CONFIGURATION.findall(content.decode(errors="replace"))
    for file in _ssh_files(named):
        if _UNPINNED_SSH.search(_add(digest, file)):
            return None
    own = sorted(file for file in Path(__file__).parent.iterdir() if file.suffix in {".py", ".toml"})
    for file in [*_ansible_files(), *own]:
        _add(digest, file)
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith(("ANSIBLE_", "SSH_AUTH")))
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


def _ssh_files(named: Iterable[str]) -> list[Path]:
    """Return the user's configuration of OpenSSH, the system's, those that are named, and all that they include."""
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # OpenSSH runs for no account that the system does not know; this machine needs none of it
        home = Path.home()
    pending = [Path(name.replace("~", str(home), 1)) for name in named]
    pending += [home / ".ssh/config", Path("/etc/ssh/ssh_config")]
    found: list[Path] = []
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.append(file)
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        base = Path("/etc/ssh") if file.is_relative_to("/etc/ssh") else home / ".ssh"
        for line in _INCLUDE.findall(text):
            for word in line.replace('"', " ").split():
                pattern = word.replace("~", str(home), 1) if word.startswith("~") else str(base / word)
                pending += [Path(match) for match in sorted(glob.glob(pattern))]  # noqa: PTH207  # absolute patterns
    return found


def _ansible_files() -> list[Path]:
    named = os.environ.get("ANSIBLE_CONFIG")
    return [
        *([Path(named)] if named else []),
        Path("ansible.cfg").absolute(),
        Path.home() / ".ansible.cfg",
        Path("/etc/ansible/ansible.cfg"),
    ]
