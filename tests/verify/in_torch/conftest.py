"""Fixtures of the tests inside the torch environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[3]

settings.register_profile("suite", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("suite")

Answer = tuple[int, dict[str, Any]]
Verify = Callable[..., Answer]

MANY = """
import contextlib, io, json, sys
import torch
from verify.cli.main import main

answers = []
for arguments in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["--json", *arguments])
    answers.append((code, json.loads(out.getvalue())))
json.dump(answers, sys.stdout)
"""
"""Many runs of the command line after one import of torch: each run forks, and the parent touches no device."""


@pytest.fixture(scope="session")
def run_many() -> Callable[..., list[Answer]]:
    """Return a function that runs `verify` once for each list of arguments."""

    def run(arguments: Sequence[Sequence[str]], **environment: str) -> list[Answer]:
        done = subprocess.run(
            [sys.executable, "-c", MANY],
            input=json.dumps(arguments),
            cwd=ROOT,
            env={**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{environment.get('PYTHONPATH', '')}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [(code, document) for code, document in json.loads(done.stdout)]

    return run


@pytest.fixture(scope="session")
def verify() -> Verify:
    """Return a function that runs the checks as a user does and returns the exit code and the document."""

    def run(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "verify", "--json", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run
