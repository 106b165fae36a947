"""Readiness of a host's service: poll until it is proven ready or has failed; its load, and synthetic requests to it.

Whatever asks a host raises TransportError where it cannot be reached, RemoteCommandError where it cannot run ready.pyz,
and ServeError where that does not answer in JSON.
"""

import json
import shlex
import time
from collections.abc import Callable, Mapping
from typing import Any

from provision.core.errors import RemoteCommandError, ServeError
from provision.core.models.records import AttentionProof, ServeRecord
from provision.core.models.settings import Settings, value_of
from provision.core.models.stack import Stack
from provision.fleet.inventory.addresses import own_address, with_port
from provision.fleet.ssh.session import Session
from provision.phases.serve.command_line import ServeCommand
from provision.phases.serve.model import ServedModel, reference_path
from provision.phases.serve.options import options
from provision.phases.serve.tools import READY
from provision.phases.serve.unit import Service

SLICE_S = 10.0
"""Seconds that one round trip waits on the host: progress is at most this old, and an answer returns at once."""
ANSWER_ALLOWANCE_S = 420.0
"""Seconds for the answers in addition to the slice: the first one of a large model may compile kernels."""


def prove(
    session: Session,
    *,
    prefix: str,
    root: bool,
    request: Mapping[str, Any],
    deadline_s: float = 1800.0,
    progress: Callable[[str], None] | None = None,
) -> ServeRecord:
    """Wait for the live service and prove it.

    A service that is not ready gives a record with the reason, not an exception.

    Args:
        request: Result of `readiness_request`.
        progress: Receives the newest line of the service's log.
    """
    asked, started = dict(request), time.monotonic()
    while True:
        left = deadline_s - (time.monotonic() - started)
        answer = _ask(session, prefix, root, asked | {"slice_s": max(min(SLICE_S, left), 0.0)})
        if answer["state"] != "waiting":
            # A newer release of this product may have installed the host, whose proof says more.
            return ServeRecord.model_validate(answer["record"], extra="ignore")
        if left <= 0:
            return ServeRecord(
                endpoint=f"http://{with_port(own_address(asked['host']), asked['port'])}/v1",
                attention=AttentionProof(asked=asked["asked"]),
                text=f"the service runs, but has not answered a request within {deadline_s:g} s",
                evidence=(answer["progress"],),
            )
        asked |= answer["resume"]
        if progress is not None:
            progress(answer["progress"])


def sample(
    session: Session, *, prefix: str, root: bool, request: Mapping[str, Any], wanted: Mapping[str, float]
) -> dict[str, Any]:
    """Send synthetic requests to the live service, on its host.

    Args:
        request: Result of `readiness_request`.
        wanted: `requests`, how many of them at a time (`concurrent`), and `tokens` of each answer; with `replay`, tokens of
            answers to compare; with `since`, `until` of the last answer of this host.

    Returns:
        `sent`, `failed`, `first_token_s`, `inter_token_s`, `reasons`, `answers`, the server's `counters`, its `stream_errors` and `until`.
    """
    found: dict[str, Any] = _ask(session, prefix, root, {**request, "slice_s": 0.0, "sample": dict(wanted)})["sample"]
    return found


def stream_errors(session: Session, *, prefix: str, root: bool, request: Mapping[str, Any], seconds: float) -> int:
    """Return how many streams the live service ended with an error in the last so many seconds, as its log on its host says."""
    return int(_ask(session, prefix, root, {**request, "slice_s": 0.0, "errors_s": seconds})["stream_errors"])


def readiness_request(
    *,
    prefix: str,
    stack: Stack,
    settings: Settings,
    command: ServeCommand,
    service: Service,
    model: ServedModel,
    environment: str,
    release: str,
) -> dict[str, Any]:
    """Return the request for ready.pyz, of a Stack with vLLM."""
    assert stack.attention is not None  # as serve_command ensures
    has_reference = model.kind == "builtin" or model.task != "generate"
    headless = command.span is not None and command.span.is_headless
    # Options of the user by which vLLM makes vectors otherwise than the model's files say.
    pooling = [each for each in options()["pooling"]["changes"] if value_of(settings.vllm_args, each) is not None]
    return {
        "prefix": prefix,
        "supervisor": service.supervisor,
        "unit": service.name,
        "host": settings.bind,
        "port": settings.port,
        "served_name": command.served_name,
        **({"adapters": [*model.adapters]} if model.adapters else {}),
        "asked": stack.attention.backend,
        "generation": stack.attention.generation,
        "variables": {
            name: command.environment[name] for name in stack.attention.environment if name in command.environment
        },
        "kernels": [row.value for row in stack.serving.choices if row.name == "kernel"] if stack.serving else [],
        "processes": command.devices.processes,
        "model_folder": model.folder(prefix),
        "reference": reference_path(prefix, environment, model) if has_reference and not headless else None,
        **({"task": model.task, "pooling": pooling} if model.task != "generate" else {}),
        "release": release,
        **({} if settings.api_key else {"api_key": False}),
        **({"in_span": True, "headless": headless} if command.span else {}),
    }


def _ask(session: Session, prefix: str, root: bool, request: dict[str, Any]) -> dict[str, Any]:
    """Run one round trip.

    A user's systemd manager needs the runtime folder in the environment, which a plain SSH command lacks.
    """
    program = f"{prefix}/bin/{READY}"
    line = f'XDG_RUNTIME_DIR="/run/user/$(id -u)" exec {shlex.quote(f"{prefix}/current/bin/python")} -I -S {shlex.quote(program)}'
    done = session.run(line, stdin=json.dumps(request), timeout_s=request["slice_s"] + ANSWER_ALLOWANCE_S, root=root)
    if done.rc != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RemoteCommandError(
            f"{program} ended with {done.rc} on host {session.host}: {last}",
            hint=f"is the installation whole? ./firstlight provision --limit {session.host}",
        )
    try:
        answer = json.loads(done.stdout)
    except ValueError as problem:
        raise ServeError(f"{program} on host {session.host} did not answer in JSON: {done.stdout[:200]!r}") from problem
    assert isinstance(answer, dict)
    return answer
