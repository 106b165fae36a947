"""Sentences shared by all renderings: verdict, failures, warnings, Stack, the last verification."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from provision.catalog.versions import cuda_of
from provision.core.models.records import ENDED_BADLY, CheckRecord, GatewayRecord, HostSummary, ServeRecord, Summary
from provision.report.group import SEVERITY, Group
from provision.report.layout import COLUMNS, clean, count, duration, fold_names, number, span, width
from provision.report.run_files import seconds_between
from verify.operators.speed import FIXED_POINT
from verify.records import LEVELS, NEEDS, NETWORK

STATE_WORDS = {
    "unreachable": "could not be reached",
    "failed": "failed",
    "interrupted": "interrupted before the end",
    "quarantined": "quarantined, nothing changed",
    "serving": "serving",
    "installed": "installed",
    "unchanged": "unchanged",
    "stopped": "stopped",
    "removed": "removed",
    "planned": "planned, nothing changed",
    "probed": "probed, nothing changed",
}
"""In headline order."""
ROLES = {"gateway": "gateway", "monitoring": "monitoring host"}
"""What hosts are that serve no model themselves; they are counted apart."""
SPEED = "speed.attention"
SUPERVISORS = {
    "systemd": "systemd",
    "systemd-user": "systemd of this user, who is not root",
    "supervisor": "supervisord, which does not survive a reboot: the host has no systemd, or this user is not root and does not linger (loginctl enable-linger)",
}
"""What starts the service, and starts it again when it fails."""


def headline(summary: Summary) -> str:
    """Return the verdict with its reasons in one line; where they do not fit, hosts are counted and not named."""
    rest = _rest(summary)
    states = ((len(names), "not finished" if each == "interrupted" else each) for each, names in _by_kind(summary))
    counts = f"{count(len(summary.hosts), 'host')}: {', '.join(f'{hosts} {state}' for hosts, state in states)}"
    forms = ([*_states(summary), *rest], [counts, *rest], [counts])
    lines = [f"{summary.verdict.upper()}: {'; '.join(parts) or 'no host'}" for parts in forms]
    return next((line for line in lines if width(clean(line)) <= COLUMNS), lines[-1])


def role(host: HostSummary) -> str | None:
    """Return what a host is that was set up to serve no model itself, a key of `ROLES`; None for other hosts."""
    if host.serve or host.stack or host.state not in ("serving", "unchanged"):
        return None
    return "gateway" if host.gateway else "monitoring" if host.monitoring else None


def kind(host: HostSummary) -> str:
    """Return what a host is counted as: its role, else its state."""
    return role(host) or host.state


def _by_kind(summary: Summary) -> Iterable[tuple[str, list[str]]]:
    for each in (*STATE_WORDS, *ROLES):
        if names := [host.name for host in summary.hosts if kind(host) == each]:
            yield each, names


def _states(summary: Summary) -> Iterable[str]:
    others = sum(role(host) is None for host in summary.hosts)
    for each, names in _by_kind(summary):
        if each in ROLES:
            yield count(len(names), ROLES[each])
            continue
        of_all = count(len(names), "host") if len(names) == others else f"{len(names)} of {others} hosts"
        named = f" ({fold_names(names[:4])}{', ...' if len(names) > 4 else ''})" if each in ENDED_BADLY else ""
        yield f"{of_all} {STATE_WORDS[each]}{named}"


def _rest(summary: Summary) -> list[str]:
    """Return counts of checks, deviations and host differences, and whether the run was interrupted."""
    parts = []
    passed = sum(check.status == "ok" for host in summary.hosts for check in host.checks)
    if passed:
        ages = [checks_age_s(summary, host) for host in summary.hosts if host.checks]
        age = max(ages) if all(ages) else 0.0
        parts.append(f"{count(passed, 'check')} ok" + (f" {duration(age)} ago" if age else ""))
    warned = sum(check.status == "warn" for host in summary.hosts for check in host.checks)
    if warned:
        parts.append(f"{count(warned, 'check')} warned")
    odd = [check.id for check in summary.host_comparison if check.status not in ("ok", "skip")]
    if differing := [id_ for id_ in odd if id_ != NETWORK]:
        parts.append(f"hosts differ in {count(len(differing), 'check')}")
    if NETWORK in odd:
        parts.append("a problem of the network between hosts")
    deviating = sum(bool(host.deviations) for host in summary.hosts)
    if deviating:
        parts.append(f"{count(deviating, 'host')} {'differs' if deviating == 1 else 'differ'} from the plan")
    if summary.interrupted:
        parts.append("interrupted")
    return parts


def details(run: str | None = None) -> str:
    """Return the command that prints all of a summary: the newest run's, or that of a query or a run by its name."""
    return f"./firstlight logs show {run} --full" if run else "./firstlight logs show --full"


def facts_of_run(summary: Summary) -> str:
    """Return run, duration, number of changed hosts and start."""
    return f"run {summary.run}, {duration(summary.seconds)}, {count(summary.changed, 'host')} changed" + (
        f", started {summary.started_at[:19]}Z" if summary.started_at else ""
    )


def failures(group: Group) -> Iterable[tuple[str, str | None, tuple[str, ...]]]:
    """Yield sentence, hint and evidence of each failure of a group; a failed check is listed once."""
    checks = [check for check in group.checks if check.status in ("fail", "error")]
    for phase, result in group.first.phases.items():
        is_told_below = any((result.text or "").startswith(f"check `{check.id}`: ") for check in checks)
        if result.has_failed and not is_told_below:
            message = (result.text or STATE_WORDS.get(result.status, result.status)).removeprefix(f"{result.host}: ")
            yield f"{phase}: {message}", result.hint, result.evidence
    for check in checks:
        where = f" on {check.where}" if check.where else ""
        yield f"check {check.id}{where}: {check.reason or check.status}", check.remedy, ()
    if group.first.state == "interrupted" and not any(
        result.status == "interrupted" for result in group.first.phases.values()
    ):
        last = next(reversed(group.first.phases), None)
        yield (f"the run ended after `{last}`" if last else "the run ended before this host was processed"), None, ()


def warnings(summary: Summary, groups: Sequence[Group]) -> Iterable[str]:
    """Yield what makes a run amber: deviations, warnings and host differences; a check with a warning is listed once."""
    for group in groups:
        names = f"{group.names}: " if len(groups) > 1 else ""
        checks = [check for check in group.checks if check.status == "warn"]
        told_below = tuple(f"verify: check `{check.id}`: " for check in checks)
        yield from (f"{names}{message}" for message in group.first.deviations)
        yield from (f"{names}{message}" for message in group.first.warnings if not message.startswith(told_below))
        for check in checks:
            yield f"{names}check {check.id}: {check.reason}" + (f"; hint: {check.remedy}" if check.remedy else "")
    yield from (f"check {check}: {message}" for status, check, message in host_comparison(summary) if status == "warn")


def host_comparison(summary: Summary) -> Iterable[tuple[str, str, str]]:
    """Yield status, check and sentence with hint of each check that compares hosts, worst first."""
    for check in sorted(summary.host_comparison, key=lambda check: SEVERITY[check.status]):
        yield check.status, check.id, f"{check.reason}; hint: {check.remedy}" if check.remedy else check.reason


def equal_tokens(serve: ServeRecord) -> int:
    """Return how many tokens of the answer equal those of the reference."""
    return sum(one == two for one, two in zip(serve.tokens_expected, serve.tokens_answered, strict=False))


def proof(host: HostSummary) -> Iterable[str]:
    """Yield what the readiness proof showed, or why nothing serves."""
    serve = host.serve
    if serve and serve.tokens_expected:
        yield f"{equal_tokens(serve)} of {len(serve.tokens_expected)} greedy tokens equal the reference"
    elif serve:
        yield from filter(None, (serve.text, *(serve.evidence if serve.ready else ())))


def wrong_groups(groups: Iterable[Group]) -> list[Group]:
    """Return groups of failed hosts."""
    return [group for group in groups if group.first.state in ENDED_BADLY]


def checks_age_s(summary: Summary, host: HostSummary) -> float:
    """Return the age of a host's checks at the start of this run in seconds; 0 for checks of this run."""
    return max(seconds_between(host.checks_at or "", summary.started_at) or 0.0, 0.0)


def verified_when(summary: Summary, host: HostSummary) -> str:
    """Describe the age of a host's checks; empty for checks of this run."""
    age = checks_age_s(summary, host)
    return f"checked {duration(age)} before this run, at {(host.checks_at or '')[:19]}Z" if age else ""


def stack_facts(host: HostSummary) -> Iterable[tuple[str, str]]:
    """Yield name and build of every part of a host's Stack."""
    stack = host.stack
    if stack is None:
        return
    if stack.vllm:
        by = f", {stack.vllm.provider} build" + (
            f" `{stack.vllm.distribution}`" if stack.vllm.distribution != "vllm" else ""
        )
        yield "vLLM", f"{stack.vllm.version} for {stack.vllm.variant}{by}"
    else:
        yield "vLLM", "none"
    beside = " from the package index: a CUDA build, computing on the CPU" if stack.torch_stands_in else ""
    yield "torch", f"{stack.torch.version} for {stack.torch.variant}{beside}"
    origin = "the host's own" if stack.interpreter.origin == "host" else "installed by Firstlight"
    yield "Python", f"{stack.interpreter.version}, {origin}"
    if stack.torch.variant.startswith("rocm"):
        yield "ROCm", f"{stack.torch.variant.removeprefix('rocm')}, of torch's build"
    else:
        cuda = cuda_of(stack.torch.variant)
        yield "CUDA", f"{cuda}, of torch's build" if cuda else "none, it computes on the CPU"
    if stack.driver:
        module = f", {stack.driver.module} modules" if stack.driver.module else ""
        yield "driver", f"{stack.driver.version or 'of unknown version'}{module}: {stack.driver.action}"
    elif stack.torch.variant == "cpu":
        yield "driver", "none, it computes on the CPU"
    if stack.fabric_manager:
        yield "fabric manager", stack.fabric_manager
    flash = stack.flash_attn
    yield "flash-attn", "none" if flash.provider == "none" else f"{flash.provider} {flash.version or ''}".strip()
    if flash.package:
        yield "flash-attn package", f"{flash.package.version}, {flash.package.source}"
    if stack.attention:
        generation = f", generation {stack.attention.generation}" if stack.attention.generation else ""
        yield "attention", f"{stack.attention.backend}{generation}"
    if stack.system_packages:
        yield "OS packages", ", ".join(stack.system_packages)
    yield "supervisor", SUPERVISORS[stack.supervisor]


def device_facts(hosts: Sequence[HostSummary]) -> Iterable[str]:
    """Yield the devices of equal hosts, and the time that each takes for the fixed point of attention."""
    devices = hosts[0].devices
    yield from devices
    if len(devices) == 1:
        yield "no GPU"
    timed = [check for host in hosts for check in host.checks if check.id == SPEED]
    if timed or hosts[0].checks:
        batch, length, heads, dim = FIXED_POINT
        yield f"attention, b{batch} s{length} h{heads} d{dim}: {_fixed_point(timed)}"


def _fixed_point(checks: Sequence[CheckRecord]) -> str:
    """Return the milliseconds of each device; of several hosts the range, or why nothing was measured."""
    measured = [(check.device or "", found) for check in checks if (found := _milliseconds(check)) is not None]
    if not measured:
        reason = next((check.reason for check in checks if check.status != "ok"), "`verify` measures it")
        return "not measured, see Checks" if reason.startswith(NEEDS) else f"not measured: {reason}"
    dtypes = dict.fromkeys(str(check.evidence.get("dtype")) for check in checks if _milliseconds(check) is not None)
    kind = f"torch's flash attention, {', '.join(dtypes)}"
    if len({device for device, _ in measured}) == len(measured):
        return f"{', '.join(f'{number(found)} ms on {device}' for device, found in measured)} ({kind})"
    return f"{span([found for _, found in measured])} ms on {count(len(measured), 'device')} ({kind})"


def _milliseconds(check: CheckRecord) -> float | None:
    rows = check.evidence.get("milliseconds") if isinstance(check.evidence, dict) else None
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and row.get("point") == FIXED_POINT and isinstance(row.get("flash"), (int, float)):
            return float(row["flash"])
    return None


def attention_facts(host: HostSummary) -> str:
    """Return the attention back end in use with its generation, and the requested one where that is another; empty when both are unknown."""
    attention = host.attention
    if not attention.used:
        return f"{attention.asked} requested, in use: unknown" if attention.asked else ""
    generation = f", generation {attention.generation}" if attention.generation else ""
    requested = f" (requested: {attention.asked})" if attention.asked not in (None, "auto", attention.used) else ""
    return f"{attention.used} in use{generation}{requested}"


def first_call(summary: Summary) -> tuple[str, ...]:
    """Return the commands that send a prompt through the first gateway, else to the first host that serves."""
    hosts = sorted(summary.hosts, key=lambda host: host.gateway is None)
    return next((host.call for host in hosts if host.call), ())


def gateway_facts(gateway: GatewayRecord) -> Iterable[str]:
    """Yield what clients of a gateway have to know."""
    models = [f"{model} ({_in_traffic(names, gateway.out)})" for model, names in gateway.models.items()]
    yield f"{gateway.endpoint} for {', '.join(models) or 'no model'}"
    yield f"keys of {', '.join(gateway.clients) or 'no client'} in {gateway.key_file} on the host"
    if gateway.fingerprint:
        signed = "self-signed certificate" if gateway.self_signed else "certificate"
        yield f"{signed}, SHA-256 {gateway.fingerprint}"


def _in_traffic(names: Sequence[str], out: Mapping[str, str]) -> str:
    """Return how many hosts of a model get requests, and why the others get none."""
    without = [f"{name}: {out[name]}" for name in names if name in out]
    if not without:
        return count(len(names), "host")
    return f"{len(names) - len(without)} of {count(len(names), 'host')} in traffic; {', '.join(without)}"


def verified_line(last: Mapping[str, Any] | None, now: str, current: str | None = None) -> str:
    """`verified ok at full, 3 h ago; standard, 5 min ago`, and the checks that failed.

    `last` is the document of the last whole run of checks, `now` the time (ISO 8601) that its age is counted to, `current` the folder of the
    environment that is live.
    """
    if not last:
        return "never verified"
    runs = last.get("runs") or {last.get("level"): last}
    shown = [
        f"{level}, {age(runs[level].get('started_at'), now)}"
        for level in reversed(LEVELS)
        if isinstance(runs.get(level), dict)
    ]
    text = f"verified {last.get('status', 'unknown')}" + (f" at {'; '.join(shown)}" if shown else "")
    environment = last.get("environment")
    if current and environment and environment != current:
        text += f"; that was environment {environment}"
    records = [record for record in last.get("checks") or () if record.get("status") in ("fail", "error")]
    return text + "".join(f"; {_failure(record, now)}" for record in records)


def age(since: Any, now: str) -> str:
    """Return `5 min ago`, or the timestamp when the age cannot be computed."""
    seconds = seconds_between(since, now)
    return f"at {since}" if seconds is None else f"{duration(seconds)} ago"


def _failure(record: Mapping[str, Any], now: str) -> str:
    where = f" on {record['device']}" if record.get("device") else ""
    level = f" at {record['level']}" if record.get("level") else ""
    found = record.get("found")
    when = f", found {age(found.get('at'), now)}" if isinstance(found, dict) else ""
    return f"{record.get('id')}{where}: {record['status']}{level}{when}"
