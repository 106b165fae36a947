"""serving.schedule: a dry look at what stops the service later, and at whether the next boot starts it."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from verify.files import small_text
from verify.records import CheckContext, CheckResult, Figure, first_few
from verify.serving import scheduled_stops, service_control, service_plan
from verify.serving.scheduled_stops import Units
from verify.serving.service import Service
from verify.serving.service_control import ControlError
from verify.serving.service_plan import ServicePlan
from verify.tables import table

BOOT = "reboot into the former target: systemctl set-default multi-user.target"
LINGER = "let the account's manager start at boot: loginctl enable-linger"
REMOVE = "find its owner, and remove it or limit it to other services; then check again: ./firstlight verify"


@dataclass(frozen=True)
class ScheduleFacts:
    """Observations on the host."""

    loaded: Units = field(default_factory=dict)
    default: str = "multi-user.target"
    """The target of the next boot."""
    cron: Mapping[str, str] = field(default_factory=dict)
    """Files of scheduled commands, with their text; a script's is its path."""
    shutdown: str = ""
    """logind's record of a planned shutdown."""
    lingers: bool = True
    """Whether the service's manager starts at boot."""
    own: tuple[str, ...] = ()
    """Units of this product."""


STAND_IN = (
    ServicePlan("systemd", "firstlight-vllm.service", "[Install]\nWantedBy=multi-user.target\n"),
    ScheduleFacts(),
)
"""A sound host, on which an injected fault is proven."""


def run(context: CheckContext) -> CheckResult:
    planned, facts = STAND_IN
    if context.service is not None and not context.faults:
        planned = service_plan.read(context.service)
        if planned.unit is None:
            return CheckResult(
                "skip", "the service has no unit: its supervisor does not start at boot, and knows no timers"
            )
        try:
            facts = collect(context.service, planned)
        except ControlError as error:
            return CheckResult("error", f"cannot read the units of the host: {error}")
    if "changed-service" in context.faults:
        facts = replace(facts, loaded={"x.service": {"Id": "x.service", "Conflicts": planned.name}})
    return evaluate(planned, facts)


def collect(service: Service, planned: ServicePlan) -> ScheduleFacts:
    """Ask systemd for all loaded units, and read the files of scheduled commands. Raises ControlError."""
    rows = table("schedule")
    tables, scripts = (
        sorted(str(path) for pattern in rows["cron"][kind] for path in Path("/").glob(pattern[1:]))
        for kind in ("tables", "scripts")
    )
    account = pwd.getpwuid(os.getuid()).pw_name
    return ScheduleFacts(
        scheduled_stops.units(service_control.shown_units(service, scheduled_stops.PROPERTIES)),
        service_control.default_target(service),
        {path: text for path in tables if (text := small_text(path))} | {path: path for path in scripts},
        small_text(rows["shutdown"]["file"]),
        planned.supervisor == "systemd" or (Path(rows["boot"]["linger"]) / account).exists(),
        tuple(Path(line).name for line in small_text(str(service.prefix / "etc" / "units")).split()),
    )


def evaluate(planned: ServicePlan, facts: ScheduleFacts) -> CheckResult:
    """Fail where the next boot does not start the service; warn of what stops it, which an administrator may have intended."""
    name, wanted = planned.name, planned.directives().get("WantedBy", [])
    stops = [*scheduled_stops.conflicts(name, facts.loaded)]
    stops += scheduled_stops.timers(name, facts.loaded, small_text, facts.own)
    stops += scheduled_stops.commands(name, facts.cron, small_text)
    stops += filter(None, [scheduled_stops.shutdown(facts.shutdown)])
    count = sum(unit.endswith(".timer") for unit in facts.loaded)
    figures = (Figure("timers", count, "count"), Figure("files of scheduled commands", len(facts.cron), "count"))
    evidence = {"target of the next boot": facts.default, "stops": stops}
    if not facts.lingers:
        return CheckResult(
            "fail", "the next boot does not start it: its account does not linger", figures, evidence, LINGER
        )
    if wanted and not any(scheduled_stops.is_reached(target, facts.default, facts.loaded) for target in wanted):
        text = f"the next boot does not start it: it ends in {facts.default}, which does not start {wanted[-1]}"
        return CheckResult("fail", text, figures, evidence, BOOT)
    if stops:
        return CheckResult("warn", first_few(stops, 3), figures, evidence, REMOVE)
    text = f"the next boot starts it in {facts.default}; none of {count} timers and {len(facts.cron)} files of commands stops it"
    return CheckResult("ok", text, figures, evidence)
