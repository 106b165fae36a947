"""The phase `plan`: a Stack for each class of hosts."""

import time
from collections.abc import Mapping
from dataclasses import replace

from provision.core.errors import FirstlightError, InventoryError, ModelError, NoStackError
from provision.core.folders import tools_folder
from provision.core.install_paths import install_paths_of
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult, PlannedChange
from provision.core.models.stack import Plan, Resolution
from provision.core.models.staged import Staged
from provision.core.run_folder import is_query
from provision.phases.plan import choose_stacks
from provision.phases.plan.cards import with_slices
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.rules import HOST_RULES, RULES
from provision.phases.plan.services import deciding, part_of, with_gpus
from provision.phases.serve.model import BUILTIN_NAME
from provision.phases.stage import builds_in, staged_before
from provision.phases.stage.model_description import describe_all, try_sources
from provision.phases.stage.vllm_wheel import WheelReader
from provision.report.planned_changes import change_lines
from provision.report.run_files import CHANGES_FILE
from provision.run import spans
from provision.run.context import RunContext
from provision.run.desired_state import desired_state_of, host_tools
from provision.run.host_changes import around_lines, changes_of, named_builds
from provision.run.results import PlannedHosts, ProbedHosts

SOCKET = "/run/supervisor.sock.4194304"
"""The longest name below the prefix that supervisord gives its socket: it binds it with its process ID, and renames it. Source: supervisor/http.py."""
SOCKET_BYTES = 107
"""The longest path of a Unix socket. Source: unix(7), sun_path."""


def plan(context: RunContext, probed: ProbedHosts, *, keeps_model: bool = False) -> PlannedHosts:
    """Choose a Stack for each class of hosts. No host is changed. An earlier plan stays valid for hosts that are not planned again.

    Args:
        context: The run.
        probed: The hosts with their facts.
        keeps_model: Whether the run leaves the served models alone, so that nothing needs to name one.

    Returns:
        The hosts with their Stacks.
    """
    started = time.monotonic()
    spans.refuse_parts(context, "plan")
    if not keeps_model:
        context.call_for_hosts("plan", lambda host: _require_model(host, probed.facts[host.name]))
    shapes = _shapes(context, probed.facts)
    reader = WheelReader(context.wheelhouse(), client=context.options.client, refresh=context.options.refresh)
    wheels = context.call_for_hosts("plan", lambda host: reader.read(probed.facts[host.name], host.settings))
    facts = context.call_for_hosts("plan", lambda host: with_slices(probed.facts[host.name], host.settings))
    settings = context.call_for_hosts("plan", lambda host: with_gpus(host, facts[host.name], shapes))
    hosts = context.hosts()
    if not hosts:
        return PlannedHosts(**vars(probed))
    chosen = choose_stacks(
        {host.name: part_of(host, facts[host.name]) for host in hosts},
        settings,
        become={host.name for host in hosts if host.connection.become},
        shapes=shapes,
        wheels=wheels,
    )
    if isinstance(probed, PlannedHosts):
        chosen = probed.plan.replaced_by(chosen)
    context.run.write("plan.json", chosen)
    seconds = round(time.monotonic() - started, 3)
    for host in hosts:
        resolution = chosen.for_host(host.name)
        if resolution.stack is None:
            context.fail(host.name, "plan", _refusal(host.name, resolution), seconds)
        else:
            context.record(PhaseResult(host=host.name, phase="plan", status="ok", seconds=seconds))
    context.call_for_hosts("plan", lambda host: _require_short_prefix(host, probed.facts[host.name], chosen))
    found = {host.name: chosen.for_host(host.name).stack for host in context.hosts()}
    parts = {name: spans.parts_of(stack, probed.facts[name]) for name, stack in found.items() if stack}
    spans.refuse_unequal(context, "plan", parts)
    spans.refuse_parts(context, "plan")
    return PlannedHosts(**{**vars(probed), "plan": chosen})


def compare(context: RunContext, planned: PlannedHosts) -> PlannedHosts:
    """Compare each host with its plan, and say what a run changes there. No host is changed, and no network is asked."""
    known: dict[tuple[object, ...], Staged | None] = {}
    changes = {
        host.name: _host_changes(context, host, planned, known)
        for host in context.hosts()
        if planned.stack(host.name) is not None
    }
    unchanged = frozenset(name for name, found in changes.items() if not found)
    for name in unchanged - spans.whole(context, unchanged):
        text = "it restarts with the other hosts that serve its model"
        changes[name] = (PlannedChange(part="service", sign="~", text=text),)
    plain = {name: [one.model_dump(mode="json") for one in found] for name, found in changes.items()}
    context.run.write(CHANGES_FILE, plain, by_names=True)
    if not is_query(context.run.name):
        context.progress.lines(
            [*change_lines(changes), *(f"  {line}" for line in around_lines(context.hosts(), planned))]
        )
    return replace(planned, changes=changes)


def _host_changes(
    context: RunContext, host: Host, planned: PlannedHosts, known: dict[tuple[object, ...], Staged | None]
) -> tuple[PlannedChange, ...]:
    """Return what a run would change on a host that has a Stack; `known` has what was staged for hosts before it."""
    facts, resolution = planned.facts[host.name], planned.plan.for_host(host.name)
    store = context.wheelhouse()
    assert resolution.stack is not None
    try:
        key = (resolution.hosts, *host.model_key, host.settings.image)
        if key not in known:
            settings = host.settings.model_copy(update={"source": host.source_of("model")})
            refreshed = context.options.refresh and context.options.client is None
            known[key] = (
                None if refreshed else staged_before(resolution, settings, store=store, client=context.options.client)
            )
        staged = known[key]
        tools = host_tools(tools_folder(context.cache))
        desired = desired_state_of(host, facts, staged, tools=tools) if staged else None
    except FirstlightError as error:
        return (PlannedChange(part="environment", sign="?", text=error.text),)
    current = facts.installed.current if facts.installed else None
    before = builds_in(store, current) if current else None
    stack = staged.stack if staged else resolution.stack
    return changes_of(host, facts, stack, staged, desired, before=named_builds(before) if before else None)


def _require_model(host: Host, facts: HostFacts) -> None:
    """Raise ModelError where a host serves a model, and the built-in one would replace it only because nothing names a model."""
    settings, state = host.settings, (facts.installed and facts.installed.state) or {}
    served = state.get("model")
    if served in (None, BUILTIN_NAME) or "model" in settings.model_fields_set or not settings.serves_model:
        return
    raise ModelError(
        f"host `{host.name}` serves {served}, and neither the inventory nor an option names a model",
        hint="--model ORG/NAME keeps it, better firstlight_model in the inventory; --model builtin replaces it by the built-in model",
    )


def _require_short_prefix(host: Host, facts: HostFacts, chosen: Plan) -> None:
    """Raise InventoryError where supervisord could not bind its socket below the prefix."""
    stack, prefix = chosen.for_host(host.name).stack, install_paths_of(host, facts).prefix
    size, longest = len(prefix.encode()), SOCKET_BYTES - len(SOCKET)
    if size > longest and host.settings.serve and stack and stack.supervisor == "supervisor":
        text = f"{prefix} on host `{host.name}` has {size} bytes, and supervisord, which is to run the service, binds a socket there: it allows {longest}"
        raise InventoryError(text, hint="set firstlight_prefix to a shorter path")


def _shapes(context: RunContext, facts: Mapping[str, HostFacts]) -> dict[str, Shape]:
    """Describe the models that hosts are to serve, with those of other services that decide on the GPUs of a host, by name in the settings.

    A host fails where one of these models cannot be read, or is refused by the hub.
    """
    refresh = context.options.refresh and context.options.client is None
    shapes: dict[str, Shape] = {}
    tried: set[str] = set()

    def read(host: Host) -> None:
        # A bundle has the folder of one model: those of other services may not be here.
        for settings in deciding(host, facts[host.name]):
            if settings.model == "builtin":
                continue
            if not shapes.keys() >= {settings.model, settings.draft or settings.model}:
                shapes.update(describe_all(settings, context.wheelhouse(), refresh=refresh))
            try_sources(settings, context.wheelhouse(), tried)

    context.call_for_hosts("plan", read)
    return shapes


def _refusal(name: str, resolution: Resolution) -> NoStackError:
    """Return why no combination of versions fits a host, with the smallest change that would help."""
    first = next(reason for reason in resolution.reasons if reason.verdict == "reject")
    return NoStackError(
        f"no combination of versions fits host `{name}`: {first.text}",
        hint=resolution.nearest.text if resolution.nearest else None,
        cause=cause_of(first.rule),
    )


def cause_of(rule: str) -> str | None:
    """Return the doctor's id of the failure that a rule's refusal prevents; None if there is none."""
    return next((found.cause for found in (*HOST_RULES, *RULES) if found.id == rule), None)
