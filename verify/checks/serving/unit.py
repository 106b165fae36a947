"""serving.unit: state of the service, and its unit compared with the plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.records import CheckContext, CheckResult, Figure
from verify.serving import service_control, service_plan
from verify.serving.service import KEY, Service
from verify.serving.service_control import ServiceState, observe, stopped_by
from verify.serving.service_plan import ServicePlan, changed, differences, recorded

REMEDY = "./firstlight provision writes the planned unit again and starts it"
DROPPED = (
    "./firstlight provision removes it; its settings belong into the inventory (firstlight_env, firstlight_vllm_args)"
)

OF_THE_TYPE = "/service.d/"
"""Folders of drop-ins for all services (systemd.unit(5)); distributions ship some."""
GENERATED = ("Environment", "ExecStop", "ExecStopPost")
"""Directives that podman's generator adds."""
OF_ALL = "remove it, or limit it to other services: systemctl daemon-reload, then ./firstlight provision"


@dataclass(frozen=True)
class UnitFacts:
    """Observations on the host. Texts are None if there is no such file."""

    state: ServiceState
    stopped_by: str | None = None
    fragment: str | None = None
    """Text of the unit's own file, or of supervisord's configuration."""
    drop_ins: Mapping[str, str] | None = None
    environment: str | None = None
    """Text of service.env."""
    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Recorded and effective values of properties that the plan does not decide."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        return evaluate(*_with_drop_in())
    planned = service_plan.read(service)
    return evaluate(planned, collect(service, planned))


def _with_drop_in() -> tuple[ServicePlan, UnitFacts]:
    """Return a service that is as planned but for a drop-in, the injected fault."""
    unit = "[Service]\nUser=firstlight\n"
    shown = {"UnitFileState": "enabled", "User": "firstlight"}
    return ServicePlan("systemd", "firstlight-vllm.service", unit, environment={"HF_HUB_OFFLINE": "1"}), UnitFacts(
        ServiceState("active (running)", runs=True, main_pid=2, shown=shown),
        fragment=unit,
        drop_ins={"/etc/systemd/system/x.service.d/x.conf": "[Service]\nEnvironment=PYTHONPATH=/x\n"},
        environment="HF_HUB_OFFLINE=1\nVLLM_API_KEY=k\n",
    )


def collect(service: Service, planned: ServicePlan) -> UnitFacts:
    """Ask the supervisor and read the files. Raises ControlError, and PermissionError for service.env."""
    state, before = observe(service), recorded(_text(service.prefix / "state.unit") or "") if planned.unit else {}
    path = planned.unit_path if planned.unit else str(service.prefix / "etc" / "supervisord.conf")
    return UnitFacts(
        state,
        stopped_by(service, state),
        _text(path if planned.container else state.shown.get("FragmentPath") or path),
        {name: _text(name) or "" for name in state.shown.get("DropInPaths", "").split()},
        _text(service.prefix / "etc" / "service.env"),
        changed(before, service_control.shown(service, before)) if before else {},
    )


def _text(path: str | Path | None) -> str | None:
    try:
        return Path(path).read_bytes().decode(errors="replace") if path else None
    except FileNotFoundError:
        return None


def evaluate(planned: ServicePlan, facts: UnitFacts) -> CheckResult:
    """Report the first problem; all of them are in the evidence."""
    shown = facts.state.shown
    evidence: dict[str, Any] = {"state": facts.state.text, "unit": shown.get("FragmentPath")}
    figures = (Figure("starts by the supervisor", float(shown.get("NRestarts") or 0), "count"),)
    if not facts.state.runs and facts.stopped_by:
        text = f"{planned.name}: {facts.stopped_by}"
        return CheckResult("skip", text, figures, evidence, "to start it: ./firstlight serve")
    problems: list[tuple[str, str]] = []
    if not facts.state.runs:
        text = f"{planned.name} should be running and is {facts.state.text}; no record says that ./firstlight stop ended it"
        problems.append((text, "start it: ./firstlight serve"))
    problems += _unit_problems(planned, facts, evidence)
    problems += [(text, REMEDY) for text in _environment_problems(planned, facts.environment)]
    if not problems:
        return CheckResult("ok", f"{planned.name} is {facts.state.text}, as planned in every field", figures, evidence)
    evidence["problems"] = [text for text, _ in problems]
    return CheckResult("fail", "; ".join(evidence["problems"]), figures, evidence, problems[0][1])


def _unit_problems(planned: ServicePlan, facts: UnitFacts, evidence: dict[str, Any]) -> list[tuple[str, str]]:
    shown, found = facts.state.shown, list[tuple[str, str]]()
    if planned.unit is None:
        if facts.fragment != planned.config:
            found.append(("supervisord's configuration is not the planned one", REMEDY))
        return found
    texts = facts.drop_ins or {}
    own = [path for path in texts if OF_THE_TYPE not in path]
    of_all = [path for path in texts if OF_THE_TYPE in path]
    generated = GENERATED if planned.container else ()
    differing = {**differences(planned.directives(), shown), **facts.changed}
    differing = {name: values for name, values in differing.items() if name not in generated}
    evidence["differences"] = {name: {"planned": was, "effective": now} for name, (was, now) in differing.items()}
    for path in own:
        fields = ", ".join(service_plan.directives(texts[path])) or "nothing"
        found.append((f"drop-in {path} changes {fields}", DROPPED))
    if of_all and differing and not own:
        found.append((f"drop-ins of all services ({', '.join(of_all)}) change {', '.join(differing)}", OF_ALL))
    # What podman's generator made names the file that it was made from.
    origin = "SourcePath" if planned.container else "FragmentPath"
    if planned.unit_path and shown.get(origin, planned.unit_path) != planned.unit_path:
        found.append((f"systemd reads {shown[origin] or 'no file'} instead of {planned.unit_path}", REMEDY))
    if facts.fragment != planned.unit:
        wanted, there = planned.directives(), service_plan.directives(facts.fragment or "")
        fields = ", ".join(name for name in {**wanted, **there} if wanted.get(name) != there.get(name))
        found.append((f"the unit's file is not the planned one: {fields or 'its text'} differs", REMEDY))
    if shown.get("NeedDaemonReload") == "yes":
        found.append(("the unit's files have changed since systemd read them", REMEDY))
    if shown.get("UnitFileState", "enabled") not in ("enabled", "generated"):
        found.append((f"the unit is {shown['UnitFileState']}: a restart of the host would not start it", REMEDY))
    if differing and not found:
        found.append((f"systemd has other values than planned: {', '.join(differing)}", REMEDY))
    return found


def _environment_problems(planned: ServicePlan, text: str | None) -> list[str]:
    """Return the differences of service.env from the plan, without values: one of them may be a secret."""
    if text is None:
        return ["etc/service.env does not exist"]
    there = service_plan.assignments(text)
    key = KEY.rstrip("=")
    found = ["etc/service.env has carriage returns at the ends of its lines"] if "\r" in text else []
    if planned.api_key and not there.get(key):
        found.append("etc/service.env has no API key, and one is planned")
    known = {*planned.environment, *([key] if planned.api_key else ())}
    other = [name for name, value in planned.environment.items() if there.get(name) != str(value)]
    other += [name for name in there if name not in known]
    if other:
        found.append(f"etc/service.env differs from the plan in {', '.join(sorted(other))}")
    return found
