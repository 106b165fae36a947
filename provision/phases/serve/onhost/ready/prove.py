"""Prove on the host that the service answers correctly, with the requested attention backend.

    ready.pyz < REQUEST          # a JSON object, see ReadinessRequest

Prints one JSON object: {"state": "ready" | "waiting" | "failed", "progress": TEXT, "resume": {...}, "record": {...}}.
`waiting` follows after `slice_s` seconds without an answer: call again with `resume` merged into the request.
A service that exited is `failed` at once, with the decisive lines of its log.
A request with `sample` is answered with {"state": "sampled", "sample": {...}} instead: synthetic requests, nothing proven.
A request with `errors_s` is answered with {"state": "read", "stream_errors": N}: the streams that the server ended with an error in the last so
many seconds, nothing sent.
Standard library only. The API key is read here and never printed.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from verify.files import read_json, write_atomically
from verify.serving.answers import NotProvenError, compare_reference, dtype_of, greedy
from verify.serving.client import Client, RefusedError, RequestError, is_healthy
from verify.serving.processes import attention_notes, read_all
from verify.serving.service import start_ticks

from .attention import canonical, kernels_in_use, prove_attention
from .log import causes, last_lines, phases, service_log, stream_errors
from .reference import begin, wait_for
from .sample import ASKED, acceptance, metrics, pace, sample
from .service import ReadinessRequest, ServiceState, age_of, service_state
from .user_model import check_adapter, check_model
from .vectors import check_adapter as check_vectors_of_adapter
from .vectors import check_vectors
from .watch import stopped, watched

NO_ROUTE = (404, 501)
"""Statuses with which vLLM answers at a route that the model does not have."""
TAKES_NO_CHAT = ("chat template", "does not support Chat Completions")
"""What vLLM says of a chat where the model takes none; source: ChatTemplateResolutionError and create_chat_completion of vLLM."""
POLL_S = 0.1
STATE_POLL_S = 1.0


@dataclass
class Proof:
    """Fields of the controller's ServeRecord."""

    endpoint: str | None
    model: str | None = None
    task: str = "generate"
    chat: bool | None = None
    adapters: list[str] = field(default_factory=list)
    ready: bool = False
    attention: dict[str, Any] = field(default_factory=dict)
    tokens_expected: list[int] = field(default_factory=list)
    tokens_answered: list[int] = field(default_factory=list)
    startup_s: dict[str, float] = field(default_factory=dict)
    text: str | None = None
    evidence: list[str] = field(default_factory=list)


def prove(request: ReadinessRequest, client: Client, state: ServiceState, *, started_here: bool) -> Proof:
    """Prove the attention backend and the answers of a service that answers /health."""
    proof = Proof(endpoint=f"{request.service().url}/v1")
    age, asked_at = age_of(state.main_pid) if started_here else None, time.monotonic()
    log, service = service_log(request, state), request.service(state.main_pid)
    if age is not None:
        measured = phases(log, time.time() - age)
        # Times of the log are whole seconds and may exceed the measured age by one.
        proof.startup_s = {name: round(min(seconds, age), 2) for name, seconds in measured.items()}
        proof.startup_s["health"] = round(age, 2)
    notes = attention_notes(service, read_all(service.pids()))
    proof.attention, problem = prove_attention(request, notes)
    dtype = dtype_of(notes)
    adapters = {name: replace(request, served_name=name).client() for name in request.adapters}
    try:
        reference = wait_for(request) if request.reference else {}
        with watched(service, [client, *adapters.values()]):
            if request.task != "generate":
                proof.evidence = check_vectors(request, reference, dtype, client)
            elif reference:
                proof.tokens_expected, length = reference["tokens"], len(reference["tokens"])
                found = greedy(client, reference["prompt"], length)
                proof.tokens_answered = list(found.tokens)
                proof.startup_s["first_answer"] = round(found.first_at - asked_at, 2)
                if age is not None:
                    proof.startup_s["first_token"] = round(age + found.first_at - asked_at, 2)
                proof.evidence = [compare_reference(found, reference, client, length=length, dtype=dtype)]
            else:
                proof.evidence = [*check_model(request, dtype, client), *kernels_in_use(log, request.kernels)]
            for name, adapter in adapters.items():
                if request.task == "generate":
                    proof.evidence.append(check_adapter(name, adapter, client))
                else:
                    told = check_vectors_of_adapter(name, adapter, client, request.task, reference["inputs"])
                    proof.evidence.append(told)
            proof.model, proof.task = request.served_name, request.task
            proof.chat = request.task == "generate" and chats(client)
        proof.adapters = request.adapters
        proof.evidence += acceptance(metrics(request))
    except (NotProvenError, RequestError, OSError, ValueError, KeyError, TypeError) as wrong:
        text = (
            str(wrong)
            if isinstance(wrong, (NotProvenError, RequestError))
            else f"cannot evaluate the answer: {wrong!r}"
        )
        problem = f"{problem}; {text}" if problem else text
        # The log explains why an engine exited during a request.
        proof.evidence = causes(service_log(request, state))
    if age is not None:
        proof.startup_s["proven"] = round(age + time.monotonic() - asked_at, 2)
    proof.ready, proof.text = problem is None, problem
    return proof


def chats(client: Client) -> bool:
    """Return whether the model answers a chat; one without a chat template only completes texts.

    Raises NotProvenError where the server refuses a chat for another reason, and RequestError.
    """
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        client.post("/v1/chat/completions", body)
    except RefusedError as refusal:
        if refusal.status in NO_ROUTE or any(words in str(refusal) for words in TAKES_NO_CHAT):
            return False
        raise NotProvenError(f"the server answers completions but no chat: {refusal}") from None
    return True


def prove_headless(request: ReadinessRequest, state: ServiceState) -> Proof:
    """Prove the attention backend of a host whose part of the model another host asks; it is asked when that one was proven."""
    proof = Proof(endpoint=None)
    service = request.service(state.main_pid)
    notes = attention_notes(service, read_all(service.pids()))
    proof.attention, proof.text = prove_attention(request, notes)
    proof.ready = proof.text is None
    return proof


def wait_and_prove(request: ReadinessRequest) -> dict[str, Any]:
    """Run one slice: until the service is proven, has failed, or the time is over."""
    begin(request)
    client, started_here = request.client(), request.started_here
    deadline, next_look = time.monotonic() + request.slice_s, 0.0
    state = ServiceState(request.main_pid, request.start_id, None)
    while True:
        if time.monotonic() >= next_look:
            state, next_look = service_state(request, state), time.monotonic() + STATE_POLL_S
            if state.died:
                return answer(state, started_here, died(request, state))
            if state.main_pid and (frozen := stopped(request.service(state.main_pid))):
                died_of = ServiceState(state.main_pid, state.start_id, f"{request.unit} answers nothing: {frozen}")
                return answer(state, started_here, died(request, died_of))
        if request.headless and state.main_pid:
            return answer(state, started_here, prove_headless(request, state))
        if state.main_pid and is_healthy(client.endpoint):
            return answer(state, started_here, prove(request, client, state, started_here=started_here))
        started_here = True
        if time.monotonic() >= deadline:
            lines = [line.strip() for line in service_log(request, state) if line.strip()]
            return answer(state, started_here, None, progress=lines[-1][:200] if lines else "starting")
        time.sleep(POLL_S)


def died(request: ReadinessRequest, state: ServiceState) -> Proof:
    """Return a failed proof with the reason why there is no service."""
    proof = Proof(endpoint=f"{request.service().url}/v1")
    proof.attention = {"asked": canonical(request.asked)}
    log = service_log(request, state)
    found = causes(log)
    proof.text = f"{state.died}: {found[0]}" if found else state.died
    proof.evidence = found or last_lines(log)
    return proof


def answer(state: ServiceState, started_here: bool, proof: Proof | None, *, progress: str = "") -> dict[str, Any]:
    """Return the response to the controller, without a proof `waiting`; `resume` becomes part of the next slice's request."""
    return {
        "state": "waiting" if proof is None else "ready" if proof.ready else "failed",
        "progress": progress,
        "resume": {"started_here": started_here, "main_pid": state.main_pid, "start_id": state.start_id},
        "record": asdict(proof) if proof else None,
    }


def keep(path: Path, outcome: dict[str, Any], request: ReadinessRequest) -> None:
    """Store the proof, its process and its pace, so that the next run can reuse it while that process lives.

    A release keeps the best pace of its starts: one that is slower is noticed as such.
    """
    main_pid = outcome["resume"]["main_pid"]
    ticks = start_ticks(main_pid)
    proven = {
        "ready": True,
        "release": request.release,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "main_pid": main_pid,
        "start_ticks": None if ticks is None else int(ticks),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "record": outcome["record"],
        "pace": {} if request.headless else faster(pace(request), path, request.release),
    }
    write_atomically(path, json.dumps(proven))


def faster(now: dict[str, Any], path: Path, release: str) -> dict[str, Any]:
    """Return the smaller of each figure of a pace and of the one that a release kept for the same requests."""
    last = read_json(path)
    kept = last.get("pace") or {}
    if last.get("release") != release or not now or any(kept.get(name) != now[name] for name in ASKED):
        return now
    figures = {
        name: min((value for value in (now[name], kept[name]) if value is not None), default=None)
        for name in ("first_token_s", "inter_token_s")
    }
    return {**now, **figures}


def main() -> int:
    known = {each.name for each in fields(ReadinessRequest)}
    given = json.load(sys.stdin)
    request = ReadinessRequest(**{name: value for name, value in given.items() if name in known})
    if "sample" in given:
        outcome: dict[str, Any] = {"state": "sampled", "sample": sample(request, given["sample"])}
    elif "errors_s" in given:
        now = time.time()
        outcome = {"state": "read", "stream_errors": stream_errors(request, now - given["errors_s"], now)}
    else:
        outcome = wait_and_prove(request)
    if outcome["state"] == "ready" and request.is_kept:
        keep(Path(request.prefix) / "verify" / "ready.json", outcome, request)
    sys.stdout.write(json.dumps(outcome) + "\n")
    return 0
