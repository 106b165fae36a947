"""serving.soak: a short soak; `verify soak` is a long one."""

from dataclasses import replace

from verify.records import CheckContext, CheckResult
from verify.serving.client import Client, RequestError
from verify.serving.processes import listeners
from verify.serving.resource_usage import MIB, Usage
from verify.serving.samples import is_at_work
from verify.serving.service import Service
from verify.serving.soak import Sample, SoakSamples, evaluate, soak
from verify.tables import table

LEAKING = SoakSamples(
    80, [], [Sample(turn, 4 * turn, Usage((1024 + 2 * turn) * MIB, None), 99 + turn) for turn in range(20)]
)
"""Of a service that keeps half a MiB and one in four connections of its requests."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        return evaluate(LEAKING, "")
    if not listeners(int(service.readiness["port"]), ()):
        return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
    try:
        return collect(service)
    except RequestError as problem:
        return CheckResult("skip", f"it does not answer: see serving.answer ({problem})")


def collect(service: Service) -> CheckResult:
    """Soak the service and evaluate it. Growth while it answers other requests is a warning. Raises RequestError."""
    client = Client(service.endpoint, table("serving")["answer"]["silence_s"], service.api_key())
    was_at_work = is_at_work(client.text("/metrics"))
    seen = soak(service, seconds=table("soak")["check"]["seconds"], between=lambda _: None, pause_s=0.0)
    outcome = evaluate(seen, service.name)
    if outcome.status == "error":
        return replace(outcome, status="skip")
    if outcome.status == "fail" and not seen.failed and (was_at_work or is_at_work(client.text("/metrics"))):
        return replace(outcome, status="warn", reason=f"{outcome.reason}; it answered other requests at the same time")
    return outcome
