"""The processes of two hosts, called as the controller calls them: every number is correct, or the error is reported."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.verify.in_torch.conftest import ROOT
from verify.host.allreduce_trial import run_trial

HERE = "127.0.0.1"


class Part:
    """One process of `verify multihost`; closing its input ends it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "verify", "multihost"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, **asked: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture(scope="module")
def parts() -> Iterator[list[Part]]:
    both = [Part(), Part()]
    with ExitStack() as stack:
        for part in both:
            stack.enter_context(part.process)
        yield both
    assert [part.process.returncode for part in both] == [0, 0]


@pytest.fixture(scope="module")
def hellos(parts: list[Part]) -> list[dict[str, Any]]:
    return [part.hear() for part in parts]


def met(parts: list[Part], interface: str, *, processes: int = 1, backend: str = "gloo") -> list[dict[str, Any]]:
    parts[0].tell(do="reserve_port", address=HERE)
    seat = {"address": HERE, "port": parts[0].hear()["port"], "backend": backend, "world": processes * len(parts)}
    for number, part in enumerate(parts):
        ranks = {"rank": processes * number, "processes": processes}
        part.tell(do="all_reduce", interface=interface, **ranks, **seat)
    return [part.hear() for part in parts]


def test_each_process_reports_itself_and_connects_to_the_other(parts: list[Part], hellos: list[dict[str, Any]]) -> None:
    assert [hello["gpus"] for hello in hellos] == [0, 0]
    assert hellos[0]["token"] != hellos[1]["token"]
    for caller, hello in zip(parts, reversed(hellos), strict=True):
        listener = [{**door, "ports": hello["listens"], "token": hello["token"]} for door in hello["interfaces"]]
        caller.tell(do="reach", targets=listener)
        assert caller.hear() == {"how": ["reached" for _ in listener]}


@pytest.mark.parametrize("processes", [1, 2])
def test_numbers_arrive_as_they_were_sent(processes: int, parts: list[Part], hellos: list[dict[str, Any]]) -> None:
    """Two processes a host by gloo stand for the GPUs of each host by NCCL."""
    answers = met(parts, "lo", processes=processes)
    assert [answer["wrong"] for answer in answers] == [0, 0]
    assert all(answer["latency"] > 0 and answer["bandwidth"] > 0 for answer in answers)


def test_a_number_that_arrives_wrong_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(numbers: torch.Tensor) -> None:
        numbers[0] += 1

    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "lo")  # and so set back afterwards
    monkeypatch.setattr(dist, "all_reduce", wrong)
    with socket.create_server((HERE, 0)) as free:
        port = free.getsockname()[1]
    found = run_trial(0, 1, interface="lo", address=HERE, port=port, device="cpu")
    assert found["wrong"] == 1


def test_a_process_that_fails_is_the_problem_of_its_host(parts: list[Part], hellos: list[dict[str, Any]]) -> None:
    """Nothing here has the GPU that the trial asks for."""
    assert all(answer.get("problem") for answer in met(parts, "lo", backend="nccl"))


def test_a_missing_interface_is_reported(parts: list[Part], hellos: list[dict[str, Any]]) -> None:
    assert all("nowhere0" in answer["problem"] for answer in met(parts, "nowhere0"))
