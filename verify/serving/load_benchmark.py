"""Load on an endpoint by `vllm bench serve`, called in this process.

The tool needs ten seconds of CPU time to start, so several concurrencies share one start. It gets the key of the endpoint
only through this process's environment.
"""

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
"""The tool's names for milliseconds to the first token, between tokens, and to the last token."""


def arguments(
    service: Service,
    *,
    concurrency: int,
    requests: int,
    load: Mapping[str, Any],
    dataset: str | None = None,
    seed: int = 0,
) -> list[str]:
    """Return the tool's arguments; none of them is secret.

    The load has lengths and rate, `dataset` is the file of its own prompts in ShareGPT's form, and `seed` decides the random prompts
    together with the concurrency.
    """
    model = str(service.readiness["model_folder"])
    prompts = [
        "--dataset-name", "random", "--random-input-len", str(load["input_tokens"]),
        "--random-output-len", str(load["output_tokens"]),
    ]  # fmt: skip
    if load.get("dataset") and dataset:
        length = ["--sharegpt-output-len", str(load["output_tokens"])] if load["output_tokens"] else []
        prompts = ["--dataset-name", "sharegpt", "--dataset-path", dataset, *length]
    rate = ["--request-rate", str(load["rate"])] if load.get("rate") else []
    return [
        "--base-url", service.url, "--model", model, "--tokenizer", model,
        "--served-model-name", str(service.readiness["served_name"]),
        *prompts, "--ignore-eos", "--seed", str(seed + concurrency),
        "--num-prompts", str(requests), "--max-concurrency", str(concurrency), *rate,
        "--percentile-metrics", ",".join(METRICS), "--metric-percentiles", ",".join(map(str, PERCENTILES)),
        "--disable-tqdm",
    ]  # fmt: skip


def measure(
    service: Service, load: Mapping[str, Any], *, dataset: str | None = None, seed: int = 0, warmed: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the tool's result for each concurrency of the load, until its time budget is spent.

    Changes this process's environment, so call it in a child process. `cpu_s` of a result is the CPU time of the service's
    processes. With `warmed`, requests with other prompts are sent at every concurrency first, so that nothing is compiled or loaded
    during the measurement. Raises ImportError where vLLM has no such tool.
    """
    from vllm.benchmarks import serve as tool  # noqa: PLC0415 - takes ten seconds, and vLLM may be missing

    os.environ["OPENAI_API_KEY"] = service.api_key() or ""
    # The endpoint is on this host: use no proxy and no model hub.
    os.environ |= {"NO_PROXY": urlsplit(service.url).hostname or "", "HF_HUB_OFFLINE": "1"}
    parser = argparse.ArgumentParser(allow_abbrev=False)
    tool.add_cli_args(parser)
    with TemporaryDirectory() as folder:
        for concurrency in load["concurrencies"] if warmed else ():
            asked = arguments(
                service, concurrency=concurrency, requests=concurrency, load=load, dataset=dataset, seed=seed + 1
            )
            tool.main(parser.parse_args(asked))
        begun = time.monotonic()
        for concurrency, requests in zip(load["concurrencies"], load["requests"], strict=True):
            if concurrency != load["concurrencies"][0] and time.monotonic() - begun > load["budget_s"]:
                return
            asked = arguments(
                service, concurrency=concurrency, requests=requests, load=load, dataset=dataset, seed=seed
            )
            kept = ["--save-result", "--result-dir", folder, "--result-filename", f"{concurrency}.json"]
            before = service.cpu_seconds()
            tool.main(parser.parse_args([*asked, *kept]))
            cpu_s = service.cpu_seconds() - before
            found = json.loads(Path(folder, f"{concurrency}.json").read_bytes())
            yield {**found, "max_concurrency": concurrency, "rate": load.get("rate"), "cpu_s": cpu_s}
