"""Two processes that meet through an interface: every number right, or told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from tests.verify.in_torch.conftest import ROOT

PAIRS = """
import json, sys
from functools import partial
import torch
from verify.isolate import Task, run_all
from verify.network.meeting import meet
from verify.network.reach import free_port

def pair(interface, faults):
    port = free_port(["127.0.0.1"], range(29610, 29650))
    calls = [partial(meet, rank, interface, "127.0.0.1", port, backend="gloo", faults=faults) for rank in range(2)]
    endings = dict(run_all([Task(rank, call, 60.0) for rank, call in enumerate(calls)], limit=2))
    return [endings[rank].value or {"problem": endings[rank].problem} for rank in range(2)]

print(json.dumps([pair("lo", frozenset()), pair("lo", frozenset({"wrong-result"})), pair("nowhere0", frozenset())]))
"""


def test_numbers_arrive_as_they_were_sent_and_a_spoiled_one_or_a_wrong_interface_shows() -> None:
    """In a fresh process: one that is forked from another whose threads have computed may hang."""
    done = subprocess.run(
        [sys.executable, "-c", PAIRS], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    exact, spoiled, nowhere = json.loads(done.stdout)
    assert [answer["wrong"] for answer in exact] == [0, 0]
    assert all(answer["latency"] > 0 and answer["bandwidth"] > 0 for answer in exact)
    assert [answer["wrong"] for answer in spoiled] == [1, 1]
    problems: list[dict[str, Any]] = nowhere
    assert all("nowhere0" in answer["problem"] for answer in problems)
