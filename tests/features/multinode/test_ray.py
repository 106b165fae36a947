"""Ray in the program that starts a host's server with the others, with small programs in place of vLLM and Ray."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.settings import Settings
from tests.features.multinode.test_span import is_gone
from tests.waiting import OUTLASTS_S, PATIENCE_S, wait_until

RAY = """#!{python}
import json, os, socket, sys, time
from pathlib import Path
words = sys.argv[1:]
part = "head" if "--head" in words else "other"
folder = Path(os.environ["RAY_TMPDIR"])
kept = json.loads((folder / "ray_non_carry_over_env_vars.json").read_text())
seen = {{"words": words, "environment": dict(os.environ), "mode": folder.stat().st_mode & 0o777, "kept": kept, "pid": os.getpid()}}
Path("{folder}", part + ".new").write_text(json.dumps(seen))
os.replace("{folder}/" + part + ".new", "{folder}/" + part)
if part == "head":
    while not Path("{folder}/go").exists():
        time.sleep(0.05)
    listener = socket.create_server(("127.0.0.1", int(words[words.index("--runtime-env-agent-port") + 1])))
time.sleep({outlasts_s})
"""
Start = Callable[[int], subprocess.Popen[bytes]]


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Start]:
    """Start a host of two, at one address."""
    (tmp_path / "python").symlink_to(sys.executable)
    (tmp_path / "ray").write_text(RAY.format(python=sys.executable, folder=tmp_path, outlasts_s=OUTLASTS_S))
    (tmp_path / "ray").chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running: list[subprocess.Popen[bytes]] = []

    def started(rank: int) -> subprocess.Popen[bytes]:
        words = ["--rank", str(rank), "--addresses", "127.0.0.1,127.0.0.1", "--port", str(port), "--agreement", "a"]
        words += ["--ray", "4", "29501", "29503", "29582"]
        server = f"echo $$ $RAY_ADDRESS >{tmp_path}/server; exec sleep {OUTLASTS_S}"
        words += ["--", "sh", "-c", server] if rank == 0 else []
        environment = {**os.environ, "VLLM_API_KEY": f"key-{rank}", "TMPDIR": str(tmp_path)}
        command = [str(tmp_path / "python"), "-I", "-S", str(program), *words]
        with (tmp_path / f"said-{rank}").open("wb") as log:
            running.append(subprocess.Popen(command, env=environment, stderr=log))
        return running[-1]

    yield started
    for process in running:
        process.kill()
        process.wait()


def said(folder: Path, rank: int) -> str:
    return (folder / f"said-{rank}").read_text()


def seen(path: Path) -> dict[str, Any]:
    wait_until(path.exists)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_ray_of_the_head_starts_first_then_that_of_the_others_and_the_server_and_all_end_together(
    start: Start, tmp_path: Path
) -> None:
    programs = [start(rank) for rank in (1, 0)]
    head = seen(tmp_path / "head")
    wait_until(lambda: "group: the server waits for Ray of host 0 (127.0.0.1), 127.0.0.1:295" in said(tmp_path, 0))
    wait_until(lambda: "group: Ray waits for Ray of host 0 (127.0.0.1), 127.0.0.1:295" in said(tmp_path, 1))
    assert not (tmp_path / "other").exists()
    assert not (tmp_path / "server").exists()
    (tmp_path / "go").touch()
    other = seen(tmp_path / "other")
    wait_until(lambda: (tmp_path / "server").exists() and len((tmp_path / "server").read_text().split()) == 2)
    server, address = (tmp_path / "server").read_text().split()
    assert address == "127.0.0.1:29501"
    assert head["words"][:5] == ["start", "--block", "--head", "--port", "29501"]
    assert other["words"][:4] == ["start", "--block", "--address", "127.0.0.1:29501"]
    for rank, each in enumerate((head, other)):
        words = each["words"]
        assert words[words.index("--num-gpus") + 1] == "4"
        assert words[words.index("--temp-dir") + 1] == f"{each['environment']['RAY_TMPDIR']}/ray"
        assert each["mode"] == 0o700
        assert each["environment"]["RAY_USAGE_STATS_ENABLED"] == "0"
        assert "VLLM_API_KEY" in each["kept"]
        assert f"key-{rank}" not in " ".join(words)
    os.kill(other["pid"], signal.SIGKILL)
    assert [one.wait(PATIENCE_S) for one in programs] == [1, 1]
    wait_until(lambda: is_gone(int(server)) and is_gone(head["pid"]))
    assert not list(tmp_path.glob("ray-*"))


def test_every_port_of_ray_is_one_of_those_that_only_the_span_reaches(start: Start, tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    for rank in (0, 1):
        start(rank)
    first, last = Settings().ray_ports
    for each in (seen(tmp_path / "head"), seen(tmp_path / "other")):
        words = each["words"]
        named = {word: int(value) for word, value in pairwise(words) if word.endswith("-port")}
        assert named.pop("--port", 29501) == 29501
        named["metrics"] = int(each["environment"]["AUTOSCALER_METRIC_PORT"])
        assert all(first <= port <= last for port in named.values()), named
        assert len(set(named.values())) == len(named)
        assert named["--min-worker-port"] > max(port for name, port in named.items() if "worker" not in name)
        assert named["--max-worker-port"] == last
