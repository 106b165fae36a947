"""What hosts that were tried together have shown: ways to meet, which of them were open, and which one is to be taken. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verify.records import CheckResult, Figure

Way = Mapping[str, str]
"""The interface of each host, by host."""
Hellos = Mapping[str, Mapping[str, Any]]
"""What each host says of itself: `interfaces`, `own_name`, `gpus`, and the `ports` where it meets and `ephemeral` ones."""
Reached = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By host that calls, host that is called on and interface there: `reached`, or why not."""
TOLD = 4
"""How many obstacles are told; all of them stand in the evidence."""
LOOPBACK = ("127.", "::1")


@dataclass(frozen=True)
class Meeting:
    """Two hosts that tried to exchange numbers, and what each answered: figures, `skip` or `problem`."""

    way: Way
    backend: str
    answers: Mapping[str, Mapping[str, Any]]

    @property
    def is_exact(self) -> bool:
        """Whether both got every number as it was to be."""
        return all(answer.get("wrong") == 0 for answer in self.answers.values())

    @property
    def problems(self) -> list[str]:
        """Why they could not exchange, a sentence a host."""
        return [f"{host}: {answer['problem']}" for host, answer in self.answers.items() if "problem" in answer]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"interfaces": dict(self.way), "backend": self.backend, "hosts": dict(self.answers)}


def ways(hellos: Hellos) -> list[dict[str, str]]:
    """Each choice of one interface a host, for all hosts: those of one name, and those of one network; each once."""
    by_key: dict[str, dict[str, str]] = {}
    for host, hello in hellos.items():
        for interface in hello["interfaces"]:
            for key in (f"name {interface['name']}", f"network {interface['network']}"):
                by_key.setdefault(key, {}).setdefault(host, interface["name"])
    found: list[dict[str, str]] = []
    for way in by_key.values():
        if len(way) == len(hellos) and way not in found:
            found.append(way)
    return found


def rounds(hosts: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Pairs of neighbours around a ring, so that each host meets two; those of a round have no host in common."""
    if len(hosts) == 2:
        return [[(hosts[0], hosts[1])]]
    ring = list(zip(hosts, [*hosts[1:], hosts[0]], strict=True))
    last = [ring.pop()] if len(ring) % 2 else []
    return [pairs for pairs in (ring[::2], ring[1::2], last) if pairs]


def obstacles(way: Way, reached: Reached) -> list[str]:
    """Who does not reach whom on a way, and how that showed."""
    return [
        f"{caller} to {host}'s {interface}: {how}"
        for caller in way
        for host, interface in way.items()
        if caller != host and (how := reached.get(caller, {}).get(host, {}).get(interface, "not tried")) != "reached"
    ]


def best(meetings: Sequence[Meeting]) -> Way | None:
    """The way on which every meeting was exact, the one with the widest narrowest pair; null where there is none."""
    exact: list[tuple[float, Way]] = []
    for way in _distinct(meetings):
        of_it = [meeting for meeting in meetings if meeting.way == way]
        if all(meeting.is_exact for meeting in of_it):
            exact.append((_narrowest(of_it), way))
    return max(exact, key=lambda pair: pair[0])[1] if exact else None


def judge(hellos: Hellos, reached: Reached, meetings: Sequence[Meeting], silent: Mapping[str, str]) -> CheckResult:
    """What all of it means. `silent` has the hosts that did not come, with the reason."""
    through_cpu = [meeting for meeting in meetings if meeting.backend == "gloo"]
    through_gpus = [meeting for meeting in meetings if meeting.backend == "nccl"]
    way = best(through_cpu)
    evidence = {
        "interfaces": {host: hello["interfaces"] for host, hello in hellos.items()},
        "own_name_leads_to": {host: hello["own_name"] for host, hello in hellos.items()},
        "not_reached": _not_reached(reached),
        "meetings": [meeting.as_json() for meeting in meetings],
        "settings": {host: settings(interface) for host, interface in (way or {}).items()},
    }
    if silent:
        text = "; ".join(f"{host} did not come: {why}" for host, why in silent.items())
        return CheckResult("error", f"cannot tell: {text}", (), evidence, "./firstlight verify --limit names one host")
    spoiled = [meeting for meeting in meetings if any(answer.get("wrong") for answer in meeting.answers.values())]
    if spoiled:
        text = "; ".join(dict.fromkeys(_spoiled(meeting) for meeting in spoiled))
        remedy = "check cables, switch and network cards on that way (ethtool -S), and use another interface"
        return CheckResult("fail", text, (), evidence, remedy)
    if way is None:
        return CheckResult("warn", _closed(hellos, reached, through_cpu), (), evidence, _remedy(hellos))
    figures = tuple(_figures(meetings, way))
    broken = [problem for meeting in through_gpus for problem in meeting.problems]
    if broken:
        text = f"gloo meets on {_told(way)}, NCCL does not: {_first(broken)}"
        return CheckResult("warn", text, figures, evidence, _remedy(hellos))
    return CheckResult("ok", _open(hellos, way, through_cpu, through_gpus), figures, evidence)


def settings(interface: str) -> dict[str, str]:
    """The variables of a process that is to meet others through an interface."""
    return {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}


def _open(hellos: Hellos, way: Way, gloo: Sequence[Meeting], nccl: Sequence[Meeting]) -> str:
    of_it = [meeting for meeting in gloo if meeting.way == way]
    parts = [
        f"{len(way)} hosts meet on {_told(way)}, every number exact: gloo {_slowest(of_it) * 1e6:.0f} µs, {_narrowest(of_it) / 1e9:.2f} GB/s"
    ]
    exact = [meeting for meeting in nccl if meeting.is_exact]
    skipped = [answer["skip"] for meeting in nccl for answer in meeting.answers.values() if "skip" in answer]
    if exact and not skipped:
        parts.append(f"NCCL {_slowest(exact) * 1e6:.0f} µs, {_narrowest(exact) / 1e9:.2f} GB/s")
    elif skipped:
        parts.append(f"NCCL not tried: {skipped[0]}")
    astray = [host for host, hello in hellos.items() if (hello["own_name"] or "").startswith(LOOPBACK)]
    names = set(way.values())
    if len(names) == 1:
        wanted = " ".join(f"{variable}={name}" for variable, name in settings(names.pop()).items())
    else:
        wanted = f"{' and '.join(settings(''))} are these names"
    text = f"{', '.join(parts)}; {wanted}"
    if astray:
        text += (
            f"; unset, gloo announces {hellos[astray[0]]['own_name']} on {_few(astray)}, since the name resolves to it"
        )
    return text


def _closed(hellos: Hellos, reached: Reached, gloo: Sequence[Meeting]) -> str:
    bare = [host for host, hello in hellos.items() if not hello["interfaces"]]
    if bare:
        return f"no interface that leads out of the host has an address: {_few(bare)}"
    known = ways(hellos)
    if not known:
        return f"no interface has the same name or the same network on all {len(hellos)} hosts"
    problems = [problem for meeting in gloo for problem in meeting.problems]
    if problems:
        return f"hosts reach one another and cannot exchange: {_first(problems)}"
    told = "; ".join(f"{_told(way)}: {_first(obstacles(way, reached))}" for way in known)
    return f"no interface joins the {len(hellos)} hosts: {told}"


def _remedy(hellos: Hellos) -> str:
    ports = next(iter(hellos.values()))["ports"]
    low = min(hello["ephemeral"][0] for hello in hellos.values())
    high = max(hello["ephemeral"][1] for hello in hellos.values())
    return (
        f"let the hosts reach one another on one interface by TCP, ports {ports[0]}-{ports[1]}, where they meet, and {low}-{high}, where "
        "gloo and NCCL listen; nothing that is served from one host needs it"
    )


def _spoiled(meeting: Meeting) -> str:
    wrong = ", ".join(f"{answer['wrong']} on {host}" for host, answer in meeting.answers.items() if answer.get("wrong"))
    return f"{meeting.backend} gives wrong numbers on {_told(meeting.way)} between {' and '.join(meeting.answers)}: {wrong}"


def _figures(meetings: Sequence[Meeting], way: Way) -> Iterator[Figure]:
    for backend in ("gloo", "nccl"):
        of_it = [one for one in meetings if one.backend == backend and one.way == way and one.is_exact]
        if of_it:
            yield Figure(f"{backend}, smallest all-reduce of the slowest pair", _slowest(of_it) * 1e6, "us")
            yield Figure(f"{backend}, large all-reduce of the slowest pair", _narrowest(of_it) / 1e9, "GB/s")


def _slowest(meetings: Sequence[Meeting]) -> float:
    return float(max(answer["latency"] for meeting in meetings for answer in meeting.answers.values()))


def _narrowest(meetings: Sequence[Meeting]) -> float:
    return float(min(answer["bandwidth"] for meeting in meetings for answer in meeting.answers.values()))


def _told(way: Way) -> str:
    """`eth0` where it is that on every host, else each host's."""
    names = set(way.values())
    return names.pop() if len(names) == 1 else ", ".join(f"{name} of {host}" for host, name in way.items())


def _distinct(meetings: Sequence[Meeting]) -> list[Way]:
    found: list[Way] = []
    for meeting in meetings:
        if meeting.way not in found:
            found.append(meeting.way)
    return found


def _not_reached(reached: Reached) -> dict[str, dict[str, dict[str, str]]]:
    """What callers found instead of a host, by caller, host and interface; of a large fleet most is well."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for caller, hosts in reached.items():
        for host, interfaces in hosts.items():
            for interface, how in interfaces.items():
                if how != "reached":
                    found.setdefault(caller, {}).setdefault(host, {})[interface] = how
    return found


def _first(texts: Sequence[str]) -> str:
    more = len(texts) - TOLD
    return "; ".join(texts[:TOLD]) + (f"; and {more} more" if more > 0 else "")


def _few(hosts: Sequence[str]) -> str:
    more = len(hosts) - TOLD
    return ", ".join(hosts[:TOLD]) + (f" and {more} more" if more > 0 else "")
