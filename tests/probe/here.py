"""Runs the probe's real script on this machine, with any shell, user and PATH."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from provision.core.models.facts import HostFacts
from provision.phases.probe.assemble import parse
from provision.phases.probe.reading import IN_FULL, script

SERVICE = "tried"
"""A service that this machine does not have, even where it serves itself."""

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@dataclass(frozen=True)
class Ran:
    rc: int
    stdout: str
    stderr: str

    @property
    def facts(self) -> HostFacts:
        return parse("here", self.stdout)


def run(
    *shell: str,
    prefix: str | None = None,
    python: str | None = None,
    in_full: bool = False,
    environment: dict[str, str] | None = None,
    limit_s: int = 10,
    budget_s: int = 14,
    timeout_s: float = 60,
    edit: Mapping[str, str] = MappingProxyType({}),
) -> Ran:
    """Send the script to a shell's standard input; `edit` replaces texts in it."""
    text = script(
        prefix=prefix,
        service=SERVICE if prefix else None,
        python=python,
        more={IN_FULL} if in_full else (),
        command_limit_s=limit_s,
        budget_s=budget_s,
    )
    for old, new in edit.items():
        assert old in text
        text = text.replace(old, new)
    done = subprocess.run(
        shell or ("sh", "-s"),
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        env=environment,
        cwd="/",
    )
    return Ran(rc=done.returncode, stdout=done.stdout, stderr=done.stderr)


def program(folder: Path, name: str, body: str) -> None:
    """Write a program that is first on the PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)


def with_first(folder: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def traces(stdout: str) -> list[Path]:
    """Return files and folders that a script left; its output names them by the nonce."""
    nonce = stdout.partition("@@")[2].partition(" ")[0]
    assert nonce
    folders = ("/run", "/tmp", "/dev/shm", "/var/tmp")
    return [path for folder in folders for path in Path(folder).glob(f".firstlight-probe-{nonce}*")]
