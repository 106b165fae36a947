"""Load on an endpoint by vLLM's own tool, `vllm bench serve`, called inside this process.

Inside, because the tool takes ten seconds of CPU time to start: several concurrencies pay for it once. The key to the
endpoint reaches it by this process's environment alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from verify.serving.service import Service

PERCENTILES = (50, 90, 99)
METRICS = ("ttft", "itl", "e2el")
"""Milliseconds to the first token, between two tokens, and to the last one, as the tool calls them."""


def arguments(service: Service, *, concurrency: int, requests: int, load: Mapping[str, Any]) -> list[str]:
    """What the tool is called with; nothing in it is secret."""
    model = str(service.readiness["model_folder"])
    return [
        "--base-url", service.url, "--model", model, "--tokenizer", model,
        "--served-model-name", str(service.readiness["served_name"]),
        "--dataset-name", "random", "--random-input-len", str(load["input_tokens"]),
        "--random-output-len", str(load["output_tokens"]), "--ignore-eos", "--seed", str(concurrency),
        "--num-prompts", str(requests), "--max-concurrency", str(concurrency),
        "--percentile-metrics", ",".join(METRICS), "--metric-percentiles", ",".join(map(str, PERCENTILES)),
        "--disable-tqdm",
    ]  # fmt: skip


def measure(service: Service, load: Mapping[str, Any], *, warmed: bool = False) -> Iterator[dict[str, Any]]:
    """The tool's own result for each concurrency of the load, until its budget of seconds is spent.

    `cpu_s` in each are the seconds of the service's processes meanwhile. With `warmed` every concurrency is asked once
    before: what a server compiles or loads at its first requests is none of what is measured. Changes this process's environment: call it in one of its own. Raises ImportError where vLLM has no such tool.
    """
    from vllm.benchmarks import serve as tool

    os.environ["OPENAI_API_KEY"] = service.api_key() or ""
    # The endpoint is this host's own: no proxy leads to it, and no model hub is asked.
    os.environ |= {"NO_PROXY": urlsplit(service.url).hostname or "", "HF_HUB_OFFLINE": "1"}
    parser = argparse.ArgumentParser(allow_abbrev=False)
    tool.add_cli_args(parser)
    with TemporaryDirectory() as folder:
        for concurrency in load["concurrencies"] if warmed else ():
            tool.main(parser.parse_args(arguments(service, concurrency=concurrency, requests=concurrency, load=load)))
        begun = time.monotonic()
        for concurrency, requests in zip(load["concurrencies"], load["requests"], strict=True):
            if concurrency != load["concurrencies"][0] and time.monotonic() - begun > load["budget_s"]:
                return
            asked = arguments(service, concurrency=concurrency, requests=requests, load=load)
            kept = ["--save-result", "--result-dir", folder, "--result-filename", f"{concurrency}.json"]
            before = service.cpu_seconds()
            tool.main(parser.parse_args([*asked, *kept]))
            cpu_s = service.cpu_seconds() - before
            found = json.loads(Path(folder, f"{concurrency}.json").read_bytes())
            yield {**found, "max_concurrency": concurrency, "cpu_s": cpu_s}
