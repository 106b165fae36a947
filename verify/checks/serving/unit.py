"""serving.unit: the service runs, by the unit that was planned, with nothing laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verify import needs
from verify.records import Check, Context, Figure, Outcome
from verify.serving import plan
from verify.serving.control import ControlError
from verify.serving.effective import differences, drop_ins
from verify.serving.plan import Plan
from verify.serving.service import KEY, Service
from verify.serving.state import State, observe, stopped_by
from verify.tables import table

REMEDY = "./firstlight provision writes the planned unit again and starts it"
DROPPED = "./firstlight provision takes it away; what it is for belongs into the inventory (firstlight_env, firstlight_vllm_args)"

OF_ALL = "take it away, or let it hold for other services alone: systemctl daemon-reload, then ./firstlight provision"


@dataclass(frozen=True)
class Seen:
    """What was found on the host. Texts are null where there is no such file."""

    state: State
    stopped_by: str | None = None
    fragment: str | None = None
    """Text of the unit's own file, or of supervisord's configuration."""
    drop_ins: Mapping[str, str] | None = None
    environment: str | None = None
    """Text of service.env."""


STAND_IN = (
    Plan("systemd", "firstlight-vllm.service", "[Service]\nUser=firstlight\n", environment={"HF_HUB_OFFLINE": "1"}),
    Seen(
        State("active (running)", runs=True, main_pid=2, shown={"UnitFileState": "enabled", "User": "firstlight"}),
        fragment="[Service]\nUser=firstlight\n",
        environment="HF_HUB_OFFLINE=1\nVLLM_API_KEY=k\n",
    ),
)
"""A sound service, on which an injected fault is proven."""


def _run(context: Context) -> Outcome:
    planned, seen = STAND_IN
    if context.service is not None and not context.faults:
        planned = plan.read(context.service)
        try:
            seen = look(context.service, planned)
        except ControlError as error:
            return Outcome("error", f"cannot tell how the service stands: {error}")
    if "changed-service" in context.faults:
        seen = replace(
            seen, drop_ins={"/etc/systemd/system/x.service.d/x.conf": "[Service]\nEnvironment=PYTHONPATH=/x\n"}
        )
    return judge(planned, seen)


def look(service: Service, planned: Plan) -> Seen:
    """Ask the supervisor and read the files. Raises ControlError, and PermissionError for service.env."""
    state = observe(service)
    path = planned.unit_path if planned.unit else str(service.prefix / "etc" / "supervisord.conf")
    return Seen(
        state,
        stopped_by(service, state),
        _text(state.shown.get("FragmentPath") or path),
        {name: _text(name) or "" for name in _drop_ins(planned, state)},
        _text(service.prefix / "etc" / "service.env"),
    )


def _drop_ins(planned: Plan, state: State) -> list[str]:
    """Those that systemd has read, and those of our unit that it will read when it is asked to."""
    if planned.unit is None:
        return []
    folders = table("unit")["folders"]["user" if planned.supervisor == "systemd-user" else "system"]
    lying = (path for folder in folders for path in Path(folder).expanduser().glob(f"{planned.name}.d/*.conf"))
    by_file = {path.resolve(): str(path) for path in (*lying, *map(Path, state.shown.get("DropInPaths", "").split()))}
    return sorted(by_file.values())


def _text(path: str | Path | None) -> str | None:
    try:
        return Path(path).read_text(errors="replace") if path else None
    except FileNotFoundError:
        return None


def judge(planned: Plan, seen: Seen) -> Outcome:
    """The first problem speaks; all of them stand in the evidence."""
    shown = seen.state.shown
    evidence: dict[str, Any] = {"state": seen.state.text, "unit": shown.get("FragmentPath")}
    figures = (Figure("starts by the supervisor", float(shown.get("NRestarts") or 0), "count"),)
    if not seen.state.runs and seen.stopped_by:
        return Outcome(
            "skip", f"{planned.name}: {seen.stopped_by}", figures, evidence, "to serve again: ./firstlight serve"
        )
    problems: list[tuple[str, str]] = []
    if not seen.state.runs:
        text = f"{planned.name} should serve and is {seen.state.text}; no record says that ./firstlight stop ended it"
        problems.append((text, "start it: ./firstlight serve"))
    problems += _unit_problems(planned, seen, evidence)
    problems += [(text, REMEDY) for text in _environment_problems(planned, seen.environment)]
    if not problems:
        return Outcome("ok", f"{planned.name} is {seen.state.text}, as planned in every field", figures, evidence)
    evidence["problems"] = [text for text, _ in problems]
    return Outcome("fail", "; ".join(evidence["problems"]), figures, evidence, problems[0][1])


def _unit_problems(planned: Plan, seen: Seen, evidence: dict[str, Any]) -> list[tuple[str, str]]:
    shown, found = seen.state.shown, list[tuple[str, str]]()
    if planned.unit is None:
        if seen.fragment != planned.config:
            found.append(("supervisord's configuration is not the planned one", REMEDY))
        return found
    own, of_all = drop_ins(seen.drop_ins or {})
    differing = differences(planned.directives(), shown)
    evidence["differences"] = {name: {"planned": was, "effective": now} for name, (was, now) in differing.items()}
    for path in own:
        fields = ", ".join(plan.directives((seen.drop_ins or {})[path])) or "nothing"
        found.append((f"drop-in {path} changes {fields}", DROPPED))
    if of_all and differing and not own:
        found.append((f"drop-ins of all services ({', '.join(of_all)}) change {_listed(differing)}", OF_ALL))
    if planned.unit_path and shown.get("FragmentPath", planned.unit_path) != planned.unit_path:
        found.append((f"systemd reads {shown['FragmentPath'] or 'no file'} instead of {planned.unit_path}", REMEDY))
    if seen.fragment != planned.unit:
        fields = _listed(_other_fields(planned, seen.fragment or ""))
        found.append((f"the unit's file is not the planned one: {fields or 'its text'} differs", REMEDY))
    if shown.get("NeedDaemonReload") == "yes":
        found.append(("systemd has not read the unit's files since they changed", REMEDY))
    if shown.get("UnitFileState", "enabled") != "enabled":
        found.append((f"the unit is {shown['UnitFileState']}: a restart of the host would not start it", REMEDY))
    if differing and not found:
        found.append((f"systemd holds other values than planned: {_listed(differing)}", REMEDY))
    return found


def _other_fields(planned: Plan, text: str) -> list[str]:
    wanted, there = planned.directives(), plan.directives(text)
    return [name for name in {**wanted, **there} if wanted.get(name) != there.get(name)]


def _listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    return ", ".join(names)


def _environment_problems(planned: Plan, text: str | None) -> list[str]:
    """What service.env says other than planned. No value is named: one of them may be a secret."""
    if text is None:
        return ["etc/service.env is not there"]
    there = plan.assignments(text)
    wanted = set(planned.environment)
    key = KEY.rstrip("=")
    found = []
    if planned.api_key and not there.get(key):
        found.append("etc/service.env holds no API key, and one is planned")
    ours = {key} if planned.api_key else set()
    other = [name for name in wanted if there.get(name) != str(planned.environment[name])]
    other += [name for name in there if name not in wanted | ours]
    if other:
        found.append(f"etc/service.env differs from the plan in {_listed(sorted(other))}")
    return found


CHECK = Check(
    id="serving.unit",
    proves="The service runs by its planned unit: no drop-in, no other file, every effective field and variable as planned.",
    run=_run,
    level="standard",
    needs=(needs.service,),
    faults=("changed-service",),
)
