"""vLLM's own server of a model, with a plug-in that makes it wrong while a file names a fault."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provision.phases.serve.command_line import KEY_GUARD
from verify.serving.client import is_healthy
from verify.serving.service import Service

HERE = Path(__file__).parent
PLUGIN = HERE.parents[2] / "provision/phases/serve/plugin"
START_S = 400.0


@contextmanager
def started(prefix: Path, model: Path, *arguments: str, **readiness: Any) -> Iterator[Service]:
    """A service with key `k` and model name `m`, as the product starts it; file `fault` of its prefix names what is wrong with it.

    Its log is file `log` there.
    """
    (prefix / "fault").write_text("")
    (prefix / "etc").mkdir()
    (prefix / "run").mkdir()
    (prefix / "etc/service.env").write_text("VLLM_API_KEY=k\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = {
        "host": "127.0.0.1",
        "port": port,
        "served_name": "m",
        "unit": "u",
        "model_folder": str(model),
        **readiness,
    }
    variables = {
        "FAULT_FILE": str(prefix / "fault"), "PYTHONPATH": f"{HERE}:{PLUGIN}", "VLLM_API_KEY": "k", "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1", "VLLM_CACHE_ROOT": str(prefix / "cache"), "FIRSTLIGHT_PROOF_DIR": str(prefix / "run"),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model), "--served-model-name", "m", "--host", "127.0.0.1",
        "--port", str(port), "--kv-cache-memory-bytes", str(64 << 20), "--enforce-eager", "--middleware", KEY_GUARD,
        *arguments,
    ]  # fmt: skip
    with (
        (prefix / "log").open("w") as log,
        subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log, cwd=prefix) as server,
    ):
        try:
            service = Service(prefix, asked, server.pid)
            until = time.monotonic() + START_S
            while not is_healthy(service.endpoint):
                is_starting = server.poll() is None and time.monotonic() < until
                assert is_starting, (prefix / "log").read_text()[-4000:]
                time.sleep(0.5)
            yield service
        finally:
            server.terminate()
