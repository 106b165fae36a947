"""Load on an endpoint by `vllm bench serve`; the service measured with two attention back ends, and their measures side by side.

The tool needs ten seconds of CPU time to start, so several concurrencies share one start. It is called in this process and gets the key of
the endpoint only through its environment. A back end is measured on a server with the service's own command and this one change.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from verify.runner.child_processes import end_with_parent, run_one
from verify.serving import service_plan
from verify.serving.client import is_healthy
from verify.serving.processes import attention_notes, read_all
from verify.serving.service import Service
from verify.serving.soak import usage
from verify.tables import table

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

    The load has lengths and rate, `dataset` is the file of its own prompts in ShareGPT's form, and `seed` decides the random prompts,
    or which prompts of the file are sent, together with the concurrency.
    """
    model = str(service.readiness["model_folder"])
    prompts = [
        "--dataset-name", "random", "--random-input-len", str(load["input_tokens"]),
        "--random-output-len", str(load["output_tokens"]),
    ]  # fmt: skip
    if load.get("dataset") and dataset:
        length = ["--sharegpt-output-len", str(load["output_tokens"])] if load["output_tokens"] else []
        prompts = ["--dataset-name", "sharegpt", "--dataset-path", dataset, *length]
    trust = [TRUST] if _trusts_code(service) else []
    rate = ["--request-rate", str(load["rate"])] if load.get("rate") else []
    return [
        "--base-url", service.url, "--model", model, "--tokenizer", model,
        "--served-model-name", str(service.readiness["served_name"]),
        *prompts, "--ignore-eos", "--seed", str(seed + concurrency),
        "--num-prompts", str(requests), "--max-concurrency", str(concurrency), *rate,
        "--percentile-metrics", ",".join(METRICS), "--metric-percentiles", ",".join(map(str, PERCENTILES)),
        "--disable-tqdm", *trust,
    ]  # fmt: skip


def under_load(
    service: Service, load: Mapping[str, Any], *, dataset: str | None = None, seed: int = 0, warmed: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the tool's result for each concurrency of the load, until its time budget is spent.

    Changes this process's environment, and its account where the service runs code of its model, so call it in a child process.
    `cpu_s` of a result is the CPU time of the service's processes. With `warmed`, requests with other prompts are sent at every
    concurrency first, so that nothing is compiled or loaded during the measurement. Raises ImportError where vLLM has no such tool.
    """
    key = service.api_key() or ""
    if os.geteuid() == 0 and _trusts_code(service):
        _become(running(service), dataset)
    from vllm.benchmarks import serve as tool  # noqa: PLC0415 - takes ten seconds, and vLLM may be missing

    os.environ["OPENAI_API_KEY"] = key
    # The endpoint is on this host: use no proxy and no model hub. Python prefers the name in small letters.
    os.environ |= dict.fromkeys(("NO_PROXY", "no_proxy"), service.endpoint.host) | {"HF_HUB_OFFLINE": "1"}
    parser = argparse.ArgumentParser(allow_abbrev=False)
    tool.add_cli_args(parser)
    with TemporaryDirectory() as folder:
        asked_of = partial(arguments, service, load=load, dataset=dataset)
        for concurrency in load["concurrencies"] if warmed else ():
            requests = min(concurrency, RATE_WARMED) if load.get("rate") else concurrency
            asked = asked_of(concurrency=concurrency, requests=requests, seed=seed + 1)
            tool.main(parser.parse_args(asked))
        begun = time.monotonic()
        for concurrency, requests in zip(load["concurrencies"], load["requests"], strict=True):
            if concurrency != load["concurrencies"][0] and time.monotonic() - begun > load["budget_s"]:
                return
            asked = asked_of(concurrency=concurrency, requests=requests, seed=seed)
            kept = ["--save-result", "--result-dir", folder, "--result-filename", f"{concurrency}.json"]
            before = service.cpu_seconds()
            tool.main(parser.parse_args([*asked, *kept]))
            cpu_s = service.cpu_seconds() - before
            found = json.loads(Path(folder, f"{concurrency}.json").read_bytes())
            yield {**found, "max_concurrency": concurrency, "rate": load.get("rate"), "cpu_s": cpu_s}


LOAD_S = 600.0
TRUST = "--trust-remote-code"
RATE_WARMED = 16
"""Most requests before a measurement at a rate, which last as long as the rate says."""
GIB = 1 << 30
VERDICTS = {True: "met", False: "not met", None: "not measured"}
"""Of a measure with a target, by whether it is met."""
BACKEND, BACKEND_BEFORE = "--attention-backend", "VLLM_ATTENTION_BACKEND"
"""Option for the back end, and the variable of releases before 0.13 (provision/phases/serve/options.toml)."""
START_S, STOP_S = 900.0, 90.0
POLL_S = 0.2
TAIL_BYTES = 64_000
"""Length of the log: an engine's own error is above the traces of the processes that waited for it."""
POINTS_UP = "See root cause above"
"""Part of vLLM's last error, which reports a failed engine without the reason (vllm/v1/engine/utils.py)."""


class VariantError(Exception):
    """A variant cannot be made, or does not start; the message is the reason."""


@dataclass(frozen=True)
class Command:
    """Command, environment and account of a service."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    folder: str | None = None
    """Its working directory; None for that of this process."""


def require_alone(service: Service) -> None:
    """Raise VariantError where a server on this host alone cannot take the place of the service, and OSError where its plan cannot be read."""
    if service.readiness.get("in_span"):
        raise VariantError("its model is served together with other hosts, and this host alone cannot serve it")
    try:
        is_contained = bool(service_plan.read(service).container)
    except ValueError as error:
        raise VariantError(f"cannot read the plan of the service: {error}") from None
    if is_contained:
        # A server outside of it would have other libraries, and all GPUs of the host: the container's devices are the choice of GPUs.
        raise VariantError("its model is served in a container, and back ends are measured outside of one")


def running(service: Service) -> Command:
    """Return the command of the running service. Raises OSError where this user may not read it."""
    folder = Path(f"/proc/{service.main_pid}")
    words = folder.joinpath("cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    pairs = folder.joinpath("environ").read_bytes().rstrip(b"\0").split(b"\0")
    environment = dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    uid, gid = (int(status[name].split()[1]) for name in ("Uid", "Gid"))
    groups = tuple(map(int, status["Groups"].split()))
    where = str((folder / "cwd").readlink())
    return Command(tuple(map(os.fsdecode, words)), environment, uid, gid, groups, where)


def _trusts_code(service: Service) -> bool:
    """Return whether a service runs code of its model; its tokenizer may be such code, too."""
    return any(TRUST in process.argv for process in read_all([service.main_pid or 0]))


def _become(command: Command, dataset: str | None) -> None:
    """Give this process the account and environment of a service: a tokenizer may be code of its model, for which root is too much."""
    if dataset:
        os.chown(dataset, command.uid, command.gid)
    os.setgroups(command.groups)
    os.setgid(command.gid)
    os.setuid(command.uid)
    end_with_parent(signal.SIGKILL)  # Linux forgets it when the account changes
    os.environ |= command.environment


@contextmanager
def serve_variant(service: Service, command: Command) -> Iterator[Service]:
    """Run a server with a command within the block, which starts when the server is healthy. It ends with this process.

    Raises VariantError with the end of its log where it does not start.
    """
    as_owner = os.geteuid() == 0  # otherwise this process already runs as the service's account
    with TemporaryFile() as log:
        process = subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),  # noqa: PLW1509 - no other thread runs while a server is started
            user=command.uid if as_owner else None,
            group=command.gid if as_owner else None,
            extra_groups=list(command.groups) if as_owner else None,
        )
        try:
            _wait(service, process)
            yield replace(service, main_pid=process.pid)
        except VariantError as error:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            message = log.read().decode(errors="replace").strip().splitlines()
            # The last line that names an error and does not point to another one, otherwise the last line.
            named = [line for line in message if "Error" in line and POINTS_UP not in line]
            reason = (named or message or ["it left no message"])[-1].strip()[:400]
            raise VariantError(f"{error}: {reason}") from None
        finally:
            _end(process)


def _wait(service: Service, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not is_healthy(service.endpoint):
        if process.poll() is not None:
            raise VariantError(f"the server ended with {process.returncode} before it answered")
        if time.monotonic() > deadline:
            raise VariantError(f"the server did not answer within {START_S:g} s")
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    finally:
        # Engine and worker processes survive a killed server, so kill the group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def with_backend(command: Command, name: str) -> Command:
    """Return the service's command with another attention back end. Raises VariantError where it names none."""
    if BACKEND in command.argv[:-1]:
        place = command.argv.index(BACKEND) + 1
        return replace(command, argv=(*command.argv[:place], name, *command.argv[place + 1 :]))
    if BACKEND_BEFORE in command.environment:
        return replace(command, environment={**command.environment, BACKEND_BEFORE: name})
    raise VariantError("the service's command names no attention back end: install it again with ./firstlight serve")


@dataclass(frozen=True)
class Target:
    """What a measure must reach with the second back end: a value in the measure's unit, or a relative change."""

    value: float
    is_change: bool

    def met(self, after: float | None, change: float | None, *, less: bool) -> bool | None:
        """Return whether it is reached; None where it was not measured."""
        measured = change if self.is_change else after
        if measured is None:
            return None
        return measured <= self.value if less else measured >= self.value


def parse_target(text: str) -> tuple[str, Target]:
    """Return the measure and the target of `first_token=-40%` (a change), or of `ttft=30ms` and `output=1400` (a value in its unit).

    Raises ValueError where there is no such measure, or it has another unit.
    """
    name, _, value = text.partition("=")
    known = {one: measure for measure in table("compare")["measure"] for one in (measure["name"], measure.get("short"))}
    if name not in known:
        raise ValueError(f"no measure is named `{name}`; there are {', '.join(filter(None, known))}")
    measure = known[name]
    number = re.fullmatch(r"([+-]?\d+(?:\.\d*)?) ?(\S*)", value)
    if number is None or number[2] not in {"", "%", measure["unit"]}:
        raise ValueError(f"`{text}` is no target: write a change such as {name}=-40%, or a value in {measure['unit']}")
    # A signed number is a change too.
    is_change = number[2] == "%" or (not number[2] and value[0] in "+-")
    return measure["name"], Target(float(number[1]) / (100 if is_change else 1), is_change)


def measure(service: Service, command: Command, load: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a command under load, whose lengths, concurrencies and limits are those of serving.toml.

    Returns `results` by concurrency, bytes of `memory` after them, and `used`: the attention back ends of the layers.
    Raises VariantError where the server does not start or answer.
    """
    with serve_variant(service, command) as server:
        used = backends(server)
        ending = run_one(lambda: list(under_load(server, load, warmed=True)), deadline_s=LOAD_S)
        if ending.problem:
            raise VariantError(f"cannot measure under load: {ending.problem}")
        require_answers(ending.value)
        return {"used": used, "results": ending.value, "memory": usage(server).total}


def require_answers(results: Sequence[Mapping[str, Any]]) -> None:
    """Raise VariantError where no request of a load was answered: its times are zeros."""
    if silent := [result["max_concurrency"] for result in results if not result["completed"]]:
        raise VariantError(f"no request was answered, with {silent[0]} at once")


def at_once(*measured: Mapping[str, Any]) -> int:
    """Return the largest concurrency that all measurements reached, because different loads cannot be compared."""
    return int(max(set.intersection(*({result["max_concurrency"] for result in one["results"]} for one in measured))))


def figures(measured: Mapping[str, Any], most: int) -> dict[str, Any]:
    """Return the measures of `measure` by name: speeds at concurrency `most`, totals of all loads up to it."""
    results = [result for result in measured["results"] if result["max_concurrency"] <= most]
    last = results[-1]
    asked = sum(result["num_prompts"] for result in results)
    tokens = sum(result["total_output_tokens"] for result in results)
    cpu_s = sum(result["cpu_s"] for result in results)
    return {
        "used": measured["used"],
        "at_once": last["max_concurrency"],
        "first_token": last["p50_ttft_ms"],
        "p50": last["p50_e2el_ms"],
        "p99": last["p99_e2el_ms"],
        "output": last["output_throughput"],
        "memory": measured["memory"] / GIB,
        "cpu": 1000 * cpu_s / tokens if tokens else float("inf"),
        "failed": (asked - sum(result["completed"] for result in results)) / asked,
    }


def require_difference(asked: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Raise VariantError where the layers used one back end both times, according to the `figures` of each."""
    if before["used"] and before["used"] == after["used"]:
        names, used = " and ".join(asked), ", ".join(before["used"])
        text = f"the back ends {names} were requested, but the layers used {used} both times"
        raise VariantError(f"{text}: nothing was compared")


def backends(server: Service) -> list[str]:
    """Return the attention back ends of a server's layers, from the notes of its plugin."""
    notes = attention_notes(server, read_all(server.pids()))
    return sorted({str(layer["backend"]) for note in notes for layer in note["layers"]})


def side_by_side(
    before: Mapping[str, Any], after: Mapping[str, Any], targets: Mapping[str, Target] | None = None
) -> list[dict[str, Any]]:
    """Return a row per measure of the `figures` with both back ends; the user's targets are given by measure.

    `before` and `after` are None where it was not measured, `change` is relative and None where there was nothing before.
    """
    rows = []
    for measure in table("compare")["measure"]:
        name, less = measure["name"], measure["wanted"] == "less"
        was, now, target = before.get(name), after.get(name), (targets or {}).get(name)
        # 140 is exactly 40 % more than 100, despite floating point
        change = round(now / was - 1, 9) if was and now is not None else None
        row = {"name": name, "title": measure["title"], "unit": measure["unit"], "before": was, "after": now}
        row |= {"change": change, "target": "", "met": None, "verdict": ""}
        if target:
            value = f"{target.value:+.0%}" if target.is_change else f"{target.value:,g}"
            met = target.met(now, change, less=less)
            row |= {"target": f"at {'most' if less else 'least'} {value}", "met": met, "verdict": VERDICTS[met]}
        rows.append(row)
    return rows
