"""serving.answer: response and correctness of the service's answers. serving.model: identity of the served model, and content of its files."""

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from verify.binaries import manifest
from verify.binaries.manifest import ComparedFiles, Contents
from verify.files import read_json
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.serving import answers
from verify.serving.client import Client, Endpoint, NoAnswerError, RequestError
from verify.serving.processes import STOPPED, Process, attention_notes, listeners, read_all
from verify.serving.samples import TOKENS, totals
from verify.serving.service import Service
from verify.serving.vectors import INPUTS, against, alone_and_together, rounding
from verify.tables import table

ANEW = "restart it: ./firstlight serve; see its log: ./firstlight doctor --limit NAME"
FILES_AGAIN = "./firstlight provision creates or sends the model's files again"
WRONG = "do not serve with it: ./firstlight provision, then ./firstlight verify --level full"

ALONE = "its answers to the same prompts alone"
"""What answers to requests at once are compared with."""
ALONE_VECTORS = "its vectors of the same texts alone"

Compared = tuple[dict[str, str | None], str | None]
"""What the answers were compared with and the problems found; why the model itself cannot be computed."""


def answer(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        reference = {"tokens": [5, 6], "gaps": [1.0, 1.0], "runners_up": [1, 1], "logprobs": [-0.1, -0.1]}
        spoiled = answers.Answer((5, 7), (-0.1, -0.1))
        client = Client(Endpoint("", 0, ""), 0.0)  # not asked
        wrong = problem_of(partial(answers.compare_reference, spoiled, reference, client, length=2, dtype="float32"))
        return evaluate_answer({"the reference": wrong}, None, 0.0, {})
    if not listeners(int(service.readiness["port"])):
        return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
    return check_answer(service, whole=context.includes("full"))


def problem_of(compare: Callable[[], object]) -> str | None:
    """Return what a comparison finds wrong."""
    try:
        compare()
    except answers.NotProvenError as wrong:
        return str(wrong)
    return None


def check_answer(service: Service, *, whole: bool = False) -> CheckResult:
    """Request answers, with `whole` also to the longest prompt, unless a process of the service is stopped, and compare them."""
    processes = read_all(service.pids()) if service.main_pid else ()
    if stopped := [process for process in processes if process.state == STOPPED]:
        return report_stopped(stopped)
    key, limits = service.api_key(), table("serving")["answer"]
    dtype = answers.dtype_of(attention_notes(service, processes))
    of_text = partial(_builtin if service.readiness.get("reference") else _users, whole=whole)
    compare: Callable[..., Compared] = of_text if service.task == "generate" else _vectors
    began, evidence = time.monotonic(), {"number type": dtype}
    # An engine at work gets a second, longer one: it may compile code for the first request of its kind, or serve others first.
    for silence_s in (limits["silence_s"], limits["working_silence_s"]):
        client = Client(service.endpoint, silence_s, key)
        try:
            compared, unread = compare(service, client, dtype, evidence)
        except NoAnswerError as silence:
            works, cores = _watch(service, client)
            outcome = CheckResult("fail", f"its engine is frozen: {silence}", remedy=ANEW)
            if works:
                text = f"its engine answers others and left this request waiting: {silence}"
                remedy = "check again when fewer requests wait: /metrics counts them"
                outcome = CheckResult("warn", text, remedy=remedy)
            elif cores < limits["working_cores"]:
                break
        except RequestError as problem:
            return CheckResult("fail", f"it does not answer: {problem}", remedy=ANEW)
        else:
            return evaluate_answer(compared, unread, time.monotonic() - began, evidence)
    return outcome


def report_stopped(stopped: Sequence[Process]) -> CheckResult:
    """Fail on processes that a signal has stopped; nothing is requested then."""
    titles = " and ".join(f"{one.title} (state {one.state})" for one in stopped)
    remedy = f"continue it: kill -CONT {' '.join(str(one.pid) for one in stopped)}; or ./firstlight provision"
    return CheckResult("fail", f"no request is answered: a signal has stopped {titles}", remedy=remedy)


def _builtin(service: Service, client: Client, dtype: str, evidence: dict[str, Any], *, whole: bool) -> Compared:
    """Compare with the stored reference, and with the model itself on a random prompt."""
    limits = table("serving")["answer"]
    reference = json.loads(Path(service.readiness["reference"]).read_text())
    answer = answers.greedy(client, reference["prompt"], limits["tokens"])
    compare = partial(answers.compare_reference, answer, reference, client, length=limits["tokens"], dtype=dtype)
    compared = {"the reference": problem_of(compare)}
    from verify.serving import small_llama  # noqa: PLC0415 - torch, which the answers of other models do not need

    small_llama.use_one_thread()
    try:
        model = small_llama.load(Path(service.readiness["model_folder"]))
    except (OSError, ValueError) as damage:
        return compared, str(damage)
    usable = model.config["vocab_size"] // 2  # the first half has no special token
    prompt = [random.randrange(usable) for _ in range(limits["new_prompt"])]  # noqa: S311 - no secret
    fresh = answers.greedy(client, prompt, limits["new_tokens"])
    evidence |= {"prompt": prompt, "tokens": fresh.tokens}
    tokens = [*prompt, *fresh.tokens]
    exact = model.logprobs(tokens)

    def compare_model() -> None:
        answers.check_model(fresh, exact[len(prompt) - 1 : -1].tolist(), dtype)
        answers.check_text(answers.forced(client, tokens), small_llama.of_tokens(exact, tokens), dtype)
        _check_long(client, model, dtype, evidence, whole=whole)

    alone = problem_of(partial(answers.check_mixed, client, answers.by_type(limits["alone"], dtype)))
    return {**compared, "the model in float64": problem_of(compare_model), ALONE: alone}, None


def _check_long(client: Client, model: Any, dtype: str, evidence: dict[str, Any], *, whole: bool) -> None:
    """Compare each token of long random prompts with the model, if it is served with enough positions."""
    limits = table("serving")["answer"]
    most = answers.positions(client)
    for length in (limits["long_prompt"], limits["longest_prompt"])[: 2 if whole else 1]:
        if length >= most:
            evidence["positions"] = f"{most}, too few for a prompt of {length} tokens"
            return
        prompt = [random.randrange(model.config["vocab_size"] // 2) for _ in range(length)]  # noqa: S311 - no secret
        values = answers.forced(client, prompt)
        # The longest prompt takes the model several seconds, which is enough once.
        others = () if length == limits["longest_prompt"] else (model.scaled(1 + limits["scale"]["step"]),)
        exact, *scaled = (model_.given(prompt) for model_ in (model, *others))
        found = answers.fit(values, exact, scaled[0] if scaled else None)
        evidence[f"prompt of {length} tokens"] = {"off": found.off, "attention scale": found.scale}
        answers.check_prompt(found, length, dtype)


def _users(service: Service, client: Client, dtype: str, evidence: dict[str, Any], *, whole: bool) -> Compared:
    """Compare with the last green run, if it kept answers."""
    path = service.prefix / "verify" / f"logprobs-{Path(service.readiness['model_folder']).name}.json"
    last = read_json(path)
    text = last.get("prompt", "The telescope saw its first light.")
    limits = table("serving")["answer"]
    answer = answers.greedy(client, text, limits["tokens"])
    evidence["tokens"] = answer.tokens
    compared = {ALONE: problem_of(partial(answers.check_mixed, client, limits["alone"]["users"]))}
    if not last:
        return compared, None

    values, kept = answers.forced(client, text), last.get("long", ())[: None if whole else 1]
    long = {one["prompt"]: answers.greedy(client, one["prompt"], len(one["tokens"])) for one in kept}
    compare = partial(answers.compare_last, client, values, answer, long, last, length=limits["tokens"], dtype=dtype)
    release = str(service.readiness.get("release"))
    return {"the last green run": problem_of(partial(compare, release=release)), **compared}, None


def _vectors(service: Service, client: Client, dtype: str, evidence: dict[str, Any]) -> Compared:
    """Compare vectors with those of the same texts among others, of transformers in float32, and of the last green run."""
    folder = service.prefix / "verify"
    last = read_json(folder / f"vectors-{Path(service.readiness['model_folder']).name}.json")
    reference = read_json(Path(service.readiness.get("reference") or folder / "none"))
    inputs = last.get("inputs") or reference.get("inputs") or INPUTS[service.task]
    alone, together = alone_and_together(client, service.task, inputs)
    bound = rounding(dtype)
    evidence["numbers of a vector"] = len(alone[0])
    compared = {ALONE_VECTORS: against(together, alone, bound)}
    if reference.get("vectors") and reference["inputs"] == inputs:
        compared["transformers in float32"] = against(alone, reference["vectors"], bound)
    if last:
        release, limits = str(service.readiness.get("release")), table("serving")["vectors"]["allowed"]
        allowed = answers.of_last(last, release, limits)[1]
        compared["the last green run"] = against(alone, last["vectors"], allowed)
    return compared, None


def _watch(service: Service, client: Client) -> tuple[bool, float]:
    """Return whether the engine processes tokens for any request, and how many cores its processes keep busy."""
    watch_s, seen = table("serving")["answer"]["watch_s"], list[float]()
    watching, cores = replace(client, silence_s=watch_s), 0.0
    for is_first in (True, False):
        with suppress(RequestError):
            seen.append(sum(totals(watching.text("/metrics"), TOKENS).values()))
        cores = service.cores(watch_s) if is_first else cores
    return len(seen) == 2 and seen[1] > seen[0], cores


def evaluate_answer(
    compared: Mapping[str, str | None], unread: str | None, seconds: float, evidence: Mapping[str, Any]
) -> CheckResult:
    """Report wrong answers with what they were compared with, and why the model itself cannot be computed."""
    figures = (Figure("answers", seconds, "s"),)
    evidence = {**evidence, "compared with": list(compared)}
    wrong = [f"its answer differs from {what}: {text}" for what, text in compared.items() if text]
    if wrong or unread:
        text = "; ".join([*wrong, *filter(None, [unread])])
        return CheckResult("fail", text, figures, evidence, WRONG if wrong else FILES_AGAIN)
    if not set(compared) - {ALONE, ALONE_VECTORS}:
        text = f"it answers after {seconds:.1f} s; no green run kept answers to compare with"
        return CheckResult("ok", text, figures, evidence)
    what = "vectors" if ALONE_VECTORS in compared else "greedy answers"
    text = f"its {what} match {' and '.join(compared)}, after {seconds:.1f} s"
    return CheckResult("ok", text, figures, evidence)


MARKS = "verify/model-files.json"


def model(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        other = {"data": [{"id": "m", "root": "/tmp/other"}]}  # noqa: S108 - of no real file
        return evaluate_model("/p/models/m", "m", ComparedFiles(3, 3), endpoint=other)
    folder = Path(service.readiness["model_folder"])
    contents = manifest.listed(folder.with_name(f"{folder.name}.manifest.txt"), folder)
    if contents is None:
        text = f"{folder} has no manifest to compare with: an earlier release installed it"
        return CheckResult("skip", text, remedy="./firstlight provision writes one when it installs the model")
    return check_model(service, folder, contents, whole=context.includes("full"))


def check_model(service: Service, folder: Path, contents: Contents, *, whole: bool) -> CheckResult:
    """Compare the files with their manifest, and get the name of the served model."""
    limits = table("serving")["model"]
    small = {path for path, content in contents.items() if content.size <= limits["small_bytes"]}
    found = manifest.compare(contents, folder, service.prefix, MARKS, whole=whole, always=small)
    client, endpoint = Client(service.endpoint, limits["silence_s"], service.api_key()), None
    with suppress(RequestError):
        endpoint = client.get("/v1/models")
    name = service.readiness["served_name"]
    return evaluate_model(str(folder), name, found, list(unlisted(folder, contents)), endpoint)


def unlisted(folder: Path, contents: Contents) -> Iterable[str]:
    """Return the files in the model's folder that nobody installed: an engine reads some of them."""
    later = table("serving")["model"]["later"]
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and str(path) not in contents and not any(fnmatch(path.name, name) for name in later):
            yield str(path)


def evaluate_model(
    folder: str, name: str, found: ComparedFiles, added: Sequence[str] = (), endpoint: Any = None
) -> CheckResult:
    """Report files that differ, added files, and another model under the name. `endpoint` is the answer of /v1/models, if there is one."""
    problems = [*found.wrong.values(), *(f"{path}: nobody installed it" for path in added)]
    models = {str(model.get("id")): model.get("root") for model in (endpoint or {}).get("data", ())}
    if endpoint is not None:
        if name not in models:
            problems.append(f"the endpoint serves {', '.join(models) or 'no model'}, planned {name}")
        elif models[name] not in (None, folder):
            problems.append(f"the endpoint serves {models[name]} as {name}, planned {folder}")
    figures = (
        Figure("files", found.files, "count"),
        Figure("read", found.read, "count"),
        Figure("never read", found.never_read, "count"),
    )
    evidence = {"folder": folder, "endpoint": models or None, "problems": problems[:100]}
    healthy = f"{found.files} files of {folder} are as installed, {found.read} of them by content"
    asked = f"; the endpoint serves them as {name}" if models else "; the endpoint did not name its model"
    return combine([Observation("fail", text, FILES_AGAIN) for text in problems], healthy + asked, figures, evidence)
