"""Builder of summaries: states, verdict, deviations, devices. Pure functions over a run's files."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from provision.core.errors import index_access_hint
from provision.core.formatting import format_bytes
from provision.core.models.facts import HostFacts
from provision.core.models.invocation import Invocation
from provision.core.models.records import (
    ENDED_BADLY,
    GREEN_STATES,
    PHASES,
    AttentionProof,
    CheckRecord,
    HostState,
    HostSummary,
    PhaseName,
    PhaseResult,
    ReleaseRecord,
    ServeRecord,
    Summary,
)
from provision.core.models.stack import Reason, Resolution, Stack
from provision.core.models.staged import Staged
from provision.core.redaction import scrub
from provision.report.endpoint import chat_commands, gateway_commands, key_file, prefix_of, question_of
from provision.report.next_steps import next_commands
from provision.report.run_files import RunFiles, Verification, own_verification
from provision.report.starts import compare_starts

UNDONE: dict[str, HostState] = {"stop": "stopped", "uninstall": "removed"}
"""Commands that stop or remove, and the resulting host state."""
RELYING = ("install", "provision", "rollout", "serve")
"""Commands that keep what is verified on a host: its earlier checks count where they check nothing."""


def build(files: RunFiles, *, interrupted: bool = False) -> Summary:
    """Build the summary of a run; docs/reference/summary.md defines the verdict. Contains no secret."""
    described = files.inventory.hosts if files.inventory else ()
    # An unreadable command line is replaced by one that names the same hosts.
    limit = ",".join(host.name for host in described) if described else None
    source = files.inventory.source if files.inventory else None
    invocation = files.invocation or Invocation(inventory=source, limit=limit)
    names = [host.name for host in described] or dict.fromkeys((*files.phases, *files.facts))
    hosts = tuple(_with_commands(_host(files, name, names, interrupted=interrupted), invocation) for name in names)
    compared = complete_remedies((*files.host_comparison, *compare_starts(hosts)), invocation)
    summary = Summary(
        run=files.run,
        command=files.command,
        started_at=files.started_at,
        verdict=verdict(hosts, host_comparison=compared, unreadable=bool(files.unreadable), interrupted=interrupted),
        changed=sum(host.changed for host in hosts),
        seconds=round(files.seconds, 3),
        hosts=hosts,
        host_comparison=compared,
        phase_seconds=files.phase_seconds,
        transfers=files.transfers,
        interrupted=interrupted,
        next_commands=next_commands(
            invocation,
            hosts,
            command=files.command,
            reach={
                host.name: shlex.join(host.connection.ssh_words())
                for host in described
                if host.connection.kind == "ssh"
            },
            differ=any(check.status in ("fail", "error") for check in compared),
        ),
    )
    return Summary.model_validate(scrub(summary.model_dump(mode="json")))


def _with_commands(host: HostSummary, invocation: Invocation) -> HostSummary:
    """Complete every command in texts, hints, fixes, warnings and remedies for the hosts of the run."""
    complete = invocation.complete
    phases = {
        name: result.model_copy(
            update={"text": result.text and complete(result.text), "hint": result.hint and complete(result.hint)}
        )
        for name, result in host.phases.items()
    }
    findings = tuple(finding.model_copy(update={"fix": tuple(map(complete, finding.fix))}) for finding in host.findings)
    return host.model_copy(
        update={
            "phases": phases,
            "findings": findings,
            "warnings": tuple(map(complete, host.warnings)),
            "checks": complete_remedies(host.checks, invocation),
        }
    )


def complete_remedies(checks: Iterable[CheckRecord], invocation: Invocation) -> tuple[CheckRecord, ...]:
    """Complete every command in the remedies of checks for the hosts of the run."""
    return tuple(
        check.model_copy(update={"remedy": check.remedy and invocation.complete(check.remedy)}) for check in checks
    )


def verdict(
    hosts: Iterable[HostSummary],
    *,
    host_comparison: Iterable[CheckRecord] = (),
    unreadable: bool = False,
    interrupted: bool = False,
) -> Literal["red", "amber", "green"]:
    """Return the verdict.

    Red: a host failed, was unreachable or interrupted, a host comparison failed, or quarantine left no host. Amber: a warning,
    a deviation or a quarantined host. Green: none of these.
    """
    hosts, compared = tuple(hosts), {check.status for check in host_comparison}
    if interrupted or compared & {"fail", "error"} or any(host.state in ENDED_BADLY for host in hosts):
        return "red"
    quarantined = [host.state == "quarantined" for host in hosts]
    if quarantined and all(quarantined):
        return "red"
    doubtful = unreadable or "warn" in compared or any(quarantined) or any(host.has_warnings for host in hosts)
    return "amber" if doubtful else "green"


def is_green(host: HostSummary) -> bool:
    """Return whether a host was green in a run that planned it; `status` and `verify` do not plan."""
    return host.state in GREEN_STATES and host.stack is not None and verdict((host,)) == "green"


def _host(files: RunFiles, name: str, names: Iterable[str], *, interrupted: bool) -> HostSummary:
    results = files.phases.get(name, {})
    phases = {phase: results[phase] for phase in PHASES if phase in results}
    facts = files.facts.get(name)
    installed = facts.installed if facts else None
    resolution = next((entry for entry in files.plan.classes if name in entry.hosts), None) if files.plan else None
    staged = files.staged.get(name)
    relied_on = installed.last_verify if installed and _relies_on_earlier_checks(files, name) else None
    checks = files.verified.get(name) or own_verification(relied_on)
    serve = files.served.get(name)
    stack = staged.stack if staged else (resolution.stack if resolution else None)
    gateway, monitoring = files.gateways.get(name), files.monitors.get(name)
    without_vllm = (gateway is not None or monitoring is not None) and serve is None
    ready = without_vllm or (serve is not None and serve.ready)
    # What somebody else changed on the host is undone where its service starts.
    repaired = not without_vllm and "serve" in results and results["serve"].status == "ok"
    state = _state(files.command, phases, checks, ready=ready, interrupted=interrupted)
    host = next((entry for entry in files.inventory.hosts if entry.name == name), None) if files.inventory else None
    prefix = prefix_of(host, facts)
    endpoint = serve.endpoint if serve and state not in ENDED_BADLY else None
    key = key_file(host, prefix) if endpoint else None
    release = files.releases.get(name) or ReleaseRecord(release=installed.release if installed else None)
    user = facts.user.name if facts else None
    # An unreadable file without the name of a host concerns all.
    of_others = {f"{other}.json" for other in names if other != name}
    earlier = None  # the release before this one: the one that the probe found live, or the one before that
    if installed is not None and release.release is not None:
        earlier = installed.previous_release if release.release == installed.release else installed.release
    call = chat_commands(serve, key, host, user) if serve and endpoint and host else ()
    if gateway and host and state not in ENDED_BADLY:
        behind = [record for name in next(iter(gateway.models.values()), ()) if (record := files.served.get(name))]
        call = gateway_commands(gateway, host, user, question=question_of(*behind)) or call
    return HostSummary(
        name=name,
        state=state,
        changed=any(result.changed for result in phases.values()),
        phases=phases,
        stack=stack,
        reasons=_reasons(resolution, staged),
        devices=describe_devices(facts) if facts else (),
        checks=checks.checks,
        checks_at=checks.at,
        prefix=prefix,
        release=None if state == "removed" else release.release,
        refused=release.refused,
        rolled_back=release.rolled_back,
        earlier_release=earlier,
        model=serve.model if serve and endpoint else None,
        endpoint=endpoint,
        key_file=key,
        call=call,
        attention=serve.attention if serve else AttentionProof(),
        serve=serve,
        gateway=gateway if state not in ENDED_BADLY else None,
        monitoring=monitoring if state not in ENDED_BADLY else None,
        findings=files.findings.get(name, ()),
        deviations=tuple(_deviations(resolution, staged, stack, serve)),
        warnings=(
            *_warnings(phases),
            *(note for note in files.unreadable if note.split(" ", 1)[0].rpartition("/")[2] not in of_others),
        ),
        notes=(
            *([f"rolled back: {', '.join(release.rolled_back)}"] if release.rolled_back else []),
            *(
                f"drift{', repaired' if repaired else ''}: {each.sentence}"
                for each in (installed.drift if installed else ())
            ),
            *(resolution.assumptions if resolution else ()),
            *(staged.notes if staged else ()),
            *(note for result in phases.values() for note in result.notes),
        ),
    )


def _reasons(resolution: Resolution | None, staged: Staged | None) -> tuple[Reason, ...]:
    """Return the rules for the chosen Stack, and the first refusal of every other candidate."""
    if resolution is None:
        return ()
    stack = staged.stack if staged else resolution.stack
    ids = {candidate.id for candidate in resolution.candidates if candidate.accepted and candidate.stack == stack}
    refused: dict[str, Reason] = {}
    chosen: list[Reason] = []
    for reason in resolution.reasons:
        if reason.verdict == "reject":
            refused.setdefault(reason.candidate, reason)
        elif not ids or reason.candidate in ids:
            chosen.append(reason)
    for reason in staged.refused if staged else ():
        refused.setdefault(reason.candidate, reason)
    return (*chosen, *refused.values())


def _relies_on_earlier_checks(files: RunFiles, name: str) -> bool:
    """Return whether the checks that a host passed or failed last are part of how a run ended there."""
    command, release = files.command.partition(" ")[0], files.releases.get(name)
    was_rolled_back = release is not None and bool(release.rolled_back)
    has_done = not files.phases.get(name, {}).keys().isdisjoint(("install", "verify", "serve"))
    return command == "status" or (command in RELYING and has_done and not was_rolled_back)


def _state(
    command: str, phases: Mapping[PhaseName, PhaseResult], checks: Verification, *, ready: bool, interrupted: bool
) -> HostState:
    done = {phase: result.status for phase, result in phases.items()}
    statuses = set(done.values())
    reached = done.keys() & {"install", "verify", "serve"}
    is_cut_short = "interrupted" in statuses or not phases or (interrupted and not done.keys() & {"verify", "serve"})
    has_changed = any(result.changed for result in phases.values())
    state: HostState = "planned" if done.keys() - {"probe"} else "probed"
    if "unreachable" in statuses:
        state = "unreachable"
    elif "quarantined" in statuses:
        state = "quarantined"
    elif "failed" in statuses or any(check.status in ("fail", "error") for check in checks.checks):
        state = "failed"
    elif is_cut_short:
        state = "interrupted"
    elif reached and not has_changed:
        state = "unchanged"
    elif reached and (undone := UNDONE.get(command.partition(" ")[0])):
        state = undone
    elif "serve" in done and (ready or (done["serve"] != "skipped" and "install" not in done)):
        # A service that was left alone still serves, where something around it has changed.
        state = "serving"
    elif reached:
        state = "installed"
    return state


def _deviations(
    resolution: Resolution | None, staged: Staged | None, stack: Stack | None, serve: ServeRecord | None
) -> Iterable[str]:
    if resolution and staged and resolution.stack and staged.stack != resolution.stack:
        yield from _other_build(resolution, resolution.stack, staged)
    planned = stack.attention if stack else None
    proof = serve.attention if serve else AttentionProof()
    if planned is None:
        return
    if proof.used and proof.used != planned.backend:
        yield f"attention {proof.used} is in use, {planned.backend} was planned"
    if proof.generation and planned.generation and proof.generation != planned.generation:
        yield f"flash attention generation {proof.generation} is in use, {planned.generation} was planned"


def _other_build(resolution: Resolution, planned: Stack, staged: Staged) -> Iterable[str]:
    """Explain why another candidate was installed than planned, or the first one without its flash-attn package."""
    package = planned.flash_attn.package
    if package and staged.stack.model_copy(update={"flash_attn": planned.flash_attn}) == planned:
        yield from (note for note in staged.notes if note.startswith(f"{package.name} was left out"))
        return
    message = dict.fromkeys(reason.text for reason in staged.refused)
    why = (
        "; ".join(text for text in message if not any(text != more and text in more for more in message))
        or "the lock of the planned one could not be solved"
    )
    yield f"planned {describe_build(planned)}, installed {describe_build(staged.stack)}: {why}"
    if closed := [str(index) for reason in staged.refused for index in reason.facts.get("indexes", ())]:
        yield f"to have it: {index_access_hint(closed)}; then run with --refresh"
        yield from (reason.text for reason in resolution.reasons if reason.rule == "driver-policy")


def describe_build(stack: Stack) -> str:
    """Return vLLM and torch of a Stack in a short phrase."""
    vllm = f"vLLM {stack.vllm.version} {stack.vllm.variant}" if stack.vllm else "no vLLM"
    return f"{vllm} with torch {stack.torch.version} {stack.torch.variant}"


def _warnings(phases: Mapping[PhaseName, PhaseResult]) -> Iterable[str]:
    for phase, result in phases.items():
        if result.status == "warn":
            yield f"{phase}: {result.text or 'ended with a warning'}"
        elif result.status == "quarantined":
            yield f"{result.text}; hint: {result.hint}"


_VENDORS = {"10de": "NVIDIA", "1002": "AMD", "8086": "Intel"}


def describe_devices(facts: HostFacts) -> tuple[str, ...]:
    """Describe cards by kind with number, memory and driver, then the CPU; cards without a driver by PCI id."""
    kinds: list[tuple[str | None, list[tuple[str, int | None, str | None]]]] = []
    if facts.nvidia:
        named = [
            (gpu.name or "NVIDIA GPU", gpu.memory_total, gpu.compute_capability and f"sm {gpu.compute_capability}")
            for gpu in facts.nvidia.gpus
        ]
        kinds.append((_driver(facts.nvidia.driver_version, "CUDA", facts.nvidia.cuda_version), named))
    if facts.amd:
        named = [(gpu.name or "AMD GPU", gpu.memory_total, gpu.gfx) for gpu in facts.amd.gpus]
        kinds.append((_driver(facts.amd.driver_version, "ROCm", facts.amd.rocm_version), named))
    lines = [
        _listed(f"{cards} x {name}", memory and format_bytes(memory), code, driver)
        for driver, named in kinds
        for (name, memory, code), cards in Counter(named).items()
    ]
    if not lines:
        unseen = Counter((_VENDORS.get(card.vendor_id, card.vendor_id), card.device_id) for card in facts.pci_gpus)
        lines += [f"{cards} x {vendor} {device} (PCI; no driver sees it)" for (vendor, device), cards in unseen.items()]
    cpu = _listed(
        facts.cpu.model or "CPU of unknown model",
        facts.cpu.logical and f"{facts.cpu.logical} threads",
        facts.cpu.isa if facts.cpu.isa != "none" else None,
        facts.memory.total and f"{format_bytes(facts.memory.total)} memory",
    )
    return (*lines, cpu)


def _driver(version: str | None, platform: str, release: str | None) -> str | None:
    """Return the driver, with the release of CUDA that it supports or of ROCm that it belongs to."""
    return version and f"driver {version}" + (f" ({platform} {release})" if release else "")


def _listed(*parts: str | int | None) -> str:
    return ", ".join(str(part) for part in parts if part)
