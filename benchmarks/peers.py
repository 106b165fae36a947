"""Other tools to compare with, in an environment of their own that uv makes from requirements-peers.txt."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

from benchmarks.machine import ROOT, say

LOCK = ROOT / "benchmarks" / "requirements-peers.txt"


class PeerError(Exception):
    """A peer cannot be installed, or did not prove the state."""


def index_settings() -> dict[str, str]:
    """Return the user's own package indexes as uv's variables, as the launcher does."""
    done = subprocess.run(
        [sys.executable, ROOT / "requirements" / "pip_settings.py"], capture_output=True, text=True, check=True
    )
    return exported(done.stdout)


def exported(script: str) -> dict[str, str]:
    """Return the variables that lines of `export NAME=VALUE` set."""
    pairs = [shlex.split(line)[1].partition("=") for line in script.splitlines() if line.startswith("export ")]
    return {name: value for name, _, value in pairs}


def versions(programs: Path) -> dict[str, str]:
    """Return the installed versions of the three."""
    ask = (
        "import importlib.metadata, json;"
        "print(json.dumps({name: importlib.metadata.version(name) for name in ('ansible-core', 'mitogen', 'pyinfra')}))"
    )
    done = subprocess.run([programs / "python", "-I", "-c", ask], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def environment(lock: Path = LOCK) -> Path:
    """Return the folder with the programs of a lock, the peers' if none is given; the first call makes it.

    Raises PeerError with uv's output if they cannot be installed.
    """
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "firstlight-benchmarks"
    made, new = base / f"peers-{digest}", base / f"peers-{digest}.new"
    if made.exists():
        return made / "bin"
    say(f"installing {lock.name}")
    shutil.rmtree(new, ignore_errors=True)
    uv, variables = find_uv_bin(), {**os.environ, **index_settings()}
    for command in (
        [uv, "venv", "--quiet", "--no-project", "--relocatable", "--python", sys.executable, str(new)],
        [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(new / "bin/python"), str(lock)],
    ):
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerError(f"uv could not install {lock.name}: {done.stderr.strip()[-800:]}")
    new.rename(made)
    return made / "bin"


def mitogen_strategies(programs: Path) -> Path:
    """Return the folder with mitogen's strategy plugins."""
    found = next(programs.parent.glob("lib/python3*/site-packages/ansible_mitogen/plugins/strategy"), None)
    if found is None:
        raise PeerError("mitogen was installed without its strategy plugins")
    return found


def ansible_problem(output: str, hosts: int) -> str | None:
    """Return the problem in an output of ansible-playbook; None if that many hosts are unchanged and in the desired state."""
    recap = re.findall(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", output, re.MULTILINE)
    if len(recap) != hosts:
        return f"the recap names {len(recap)} of {hosts} hosts"
    for name, _, *bad in recap:
        if any(int(count) for count in bad):
            return f"{name}: changed={bad[0]} unreachable={bad[1]} failed={bad[2]}"
    return None


def pyinfra_problem(output: str) -> str | None:
    """Return the problem in the result table of pyinfra; None if no operation changed any host."""
    totals = re.search(r"^\s*Grand total\s+(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s*$", output, re.MULTILINE)
    if totals is None:
        return "pyinfra printed no result table"
    every, changed, failed, unchanged = totals.groups()
    return None if every == unchanged else f"of {every} operations {changed} changed something, {failed} failed"
