"""serving.contract: what clients use of the served API does what it is asked."""

import time

from verify.records import CheckContext, CheckResult, Figure, first_few
from verify.serving import service_plan
from verify.serving.client import Client, NoAnswerError
from verify.serving.contract import Asker, Findings, ask_all
from verify.serving.expectations import Answer, Choice, deviations
from verify.serving.processes import listeners
from verify.serving.service import Service
from verify.tables import table

REMEDY = "do not serve with it: ./firstlight provision, then ./firstlight verify --level full; its log: ./firstlight doctor --limit NAME"


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        choice = Choice("first light", finish_reason="stop")
        answers = [Answer({"stop": stop}, (choice,), {}) for stop in (None, " light")]
        return evaluate(Findings(tuple(deviations({"expects": ["stopped"]}, answers)), ("stop",)), 0.0)
    if not listeners(int(service.readiness["port"]), ()):
        return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
    began = time.monotonic()
    try:
        found = collect(service)
    except NoAnswerError as silence:
        text = f"a request of another kind than those of serving.answer waited: {silence}"
        return CheckResult("warn", text, remedy="check again when fewer requests wait: /metrics counts them")
    return evaluate(found, time.monotonic() - began)


def collect(service: Service) -> Findings:
    """Ask the service what applies to its model. Raises NoAnswerError."""
    argv = service_plan.read(service).argv
    asker = Asker(
        Client(service.endpoint, table("contract")["silence_s"], service.api_key()),
        is_builtin=bool(service.readiness.get("reference")),
        has_reasoning="--reasoning-parser" in argv,
        task=service.task,
    )
    return ask_all(asker, has_tools="--tool-call-parser" in argv)


def evaluate(found: Findings, seconds: float) -> CheckResult:
    """Fail on every deviation; what the server does not offer for this model is evidence alone."""
    figures = (Figure("kinds of requests", len(found.checked), "count"), Figure("answers", seconds, "s"))
    evidence = {
        "kinds of requests": found.checked,
        "deviations": found.deviations,
        "not offered": dict(found.refused),
        "not asked in time": found.late,
    }
    if found.deviations:
        return CheckResult("fail", first_few(found.deviations, 3, more="; and"), figures, evidence, REMEDY)
    others = {"not offered for this model": tuple(found.refused), "not tested in time": found.late}
    rest = "".join(f"; {text}: {', '.join(names)}" for text, names in others.items() if names)
    text = f"{len(found.checked)} kinds of requests are answered correctly{rest}"
    return CheckResult("ok" if found.checked else "warn", text, figures, evidence)
