"""Evaluation of multi-host trials: candidate interface maps, which of them work, and which to use."""

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.grouping import gather
from provision.core.tables import own_table
from provision.report.layout import fold_names
from verify.host.network import INTERFACE_VARIABLES
from verify.records import CheckResult, Figure, first_few

InterfaceMap = Mapping[str, str]
"""The interface of each host, by host."""
Hellos = Mapping[str, Mapping[str, Any]]
"""First answer of each host: `interfaces`, `own_name`, `gpus`, its `ports` for trials and `ephemeral` ports."""
Reached = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By calling host, called host and interface there: `reached`, or the error."""
MOST_SHOWN = 4
"""Maximum number of failures in a text; the evidence has all."""
PAIRS = Path(__file__).with_name("pairs.toml")
"""When a pair of hosts is far slower than the others."""
LOOPBACK = ("127.", "::1")


@dataclass(frozen=True)
class AllReduceTrial:
    """An all-reduce between two hosts, and their answers: figures, `skip` or `problem`."""

    interface_map: InterfaceMap
    backend: str
    answers: Mapping[str, Mapping[str, Any]]

    @property
    def is_exact(self) -> bool:
        """Return whether both hosts received exact numbers."""
        return all(answer.get("wrong") == 0 for answer in self.answers.values())

    @property
    def problems(self) -> list[str]:
        """Return the problems, one sentence a host."""
        return [f"{host}: {answer['problem']}" for host, answer in self.answers.items() if "problem" in answer]

    @property
    def wrong(self) -> list[str]:
        """Return a sentence with the wrong numbers, if there are any."""
        wrong = [f"{answer['wrong']} on {host}" for host, answer in self.answers.items() if answer.get("wrong")]
        where = f"{_describe(self.interface_map)} between {' and '.join(self.answers)}"
        return [f"{self.backend} gives wrong numbers on {where}: {', '.join(wrong)}"] if wrong else []

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"interfaces": dict(self.interface_map), "backend": self.backend, "hosts": dict(self.answers)}


def interface_maps(hellos: Hellos) -> list[InterfaceMap]:
    """Return candidate interface maps: those with an interface of each host."""
    return [one for one in _shared(hellos) if len(one) == len(hellos)]


def _shared(hellos: Hellos) -> list[InterfaceMap]:
    """Return interfaces with one name, in one network, and those of hosts that have no other."""
    by_key: dict[str, dict[str, str]] = {}
    for host, hello in hellos.items():
        alone = ["alone"] if len(hello["interfaces"]) == 1 else []
        for interface in hello["interfaces"]:
            for key in (f"name {interface['name']}", f"network {interface['network']}", *alone):
                by_key.setdefault(key, {}).setdefault(host, interface["name"])
    return list({tuple(one.items()): one for one in by_key.values()}.values())


def tournament(hosts: Sequence[str], tried: Sequence[Collection[str]]) -> list[list[tuple[str, str]]]:
    """Return all pairs that were not tried, in rounds without a common host, up to the most rounds of pairs.toml."""
    seats: list[str | None] = [*hosts, *([None] if len(hosts) % 2 else [])]
    found = []
    for _ in range(min(len(seats) - 1, own_table(PAIRS)["pairs"]["rounds"])):
        half = len(seats) // 2
        facing = zip(seats[:half], reversed(seats[half:]), strict=True)
        pairs = [(one, two) for one, two in facing if one is not None and two is not None]
        found.append([pair for pair in pairs if not any(set(pair) == set(other) for other in tried)])
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return [pairs for pairs in found if pairs]


def obstacles(interface_map: InterfaceMap, reached: Reached) -> list[str]:
    """Return which host cannot reach which interface, and the error."""
    return [
        f"{caller} to {host}'s {interface}: {how}"
        for caller in interface_map
        for host, interface in interface_map.items()
        if caller != host and (how := reached.get(caller, {}).get(host, {}).get(interface, "not tried")) != "reached"
    ]


def best(trials: Sequence[AllReduceTrial]) -> InterfaceMap | None:
    """Return the map with exact trials whose slowest pair has the highest bandwidth; None without any."""
    by_map = gather((tuple(trial.interface_map.items()), trial) for trial in trials)
    exact = [of_it for of_it in by_map.values() if all(trial.is_exact for trial in of_it)]
    return max(exact, key=_narrowest)[0].interface_map if exact else None


def evaluate_trials(
    hellos: Hellos, reached: Reached, trials: Sequence[AllReduceTrial], silent: Mapping[str, str]
) -> CheckResult:
    """Evaluate the trials; `silent` maps hosts that did not answer to the reason."""
    through_cpu = [trial for trial in trials if trial.backend == "gloo"]
    through_gpus = [trial for trial in trials if trial.backend == "nccl"]
    interface_map = best(through_cpu)
    evidence = {
        "interfaces": {host: hello["interfaces"] for host, hello in hellos.items()},
        "own_name_leads_to": {host: hello["own_name"] for host, hello in hellos.items()},
        "not_reached": _not_reached(reached),
        "meetings": [trial.as_json() for trial in trials],
        "settings": {host: settings(interface) for host, interface in (interface_map or {}).items()},
    }
    if silent:
        text = "; ".join(f"{host} did not come: {why}" for host, why in silent.items())
        return CheckResult("error", f"cannot tell: {text}", (), evidence, "./firstlight verify --limit names one host")
    if wrong := dict.fromkeys(sentence for trial in trials for sentence in trial.wrong):
        text = "; ".join(wrong)
        remedy = "check cables, switch and network cards on that way (ethtool -S), and use another interface"
        return CheckResult("fail", text, (), evidence, remedy)
    if interface_map is None:
        return CheckResult("warn", _closed(hellos, reached, through_cpu), (), evidence, _remedy(hellos))
    figures = tuple(_figures(trials, interface_map))
    if broken := [problem for trial in through_gpus for problem in trial.problems]:
        text = f"gloo meets on {_describe(interface_map)}, NCCL does not: {_first(broken)}"
        return CheckResult("warn", text, figures, evidence, _remedy(hellos))
    slow = [text for of_it in _by_backend(trials, interface_map).values() for text in _slow_parts(of_it)]
    if bad := [*slow, *dict.fromkeys(_apart(hellos, reached, interface_map))]:
        return CheckResult("warn", _first(bad), figures, evidence, own_table(PAIRS)["pairs"]["remedy"])
    return CheckResult("ok", _open(hellos, interface_map, through_cpu, through_gpus), figures, evidence)


def settings(interface: str) -> dict[str, str]:
    """Return the environment variables that select an interface."""
    return {name: text.format(interface) for name, text in INTERFACE_VARIABLES.items()}


def _open(
    hellos: Hellos, interface_map: InterfaceMap, gloo: Sequence[AllReduceTrial], nccl: Sequence[AllReduceTrial]
) -> str:
    of_it = [trial for trial in gloo if trial.interface_map == interface_map]
    parts = [
        f"{len(interface_map)} hosts meet on {_describe(interface_map)}, every number exact: gloo {_slowest(of_it) * 1e6:.0f} µs, {_narrowest(of_it) / 1e9:.2f} GB/s"
    ]
    exact = [trial for trial in nccl if trial.is_exact]
    skipped = [answer["skip"] for trial in nccl for answer in trial.answers.values() if "skip" in answer]
    if exact and not skipped:
        parts.append(f"NCCL over all GPUs {_slowest(exact) * 1e6:.0f} µs, {_narrowest(exact) / 1e9:.2f} GB/s")
    elif skipped:
        parts.append(f"NCCL not tried: {skipped[0]}")
    astray = [host for host, hello in hellos.items() if (hello["own_name"] or "").startswith(LOOPBACK)]
    names = set(interface_map.values())
    if len(names) == 1:
        wanted = " ".join(f"{variable}={name}" for variable, name in settings(names.pop()).items())
    else:
        wanted = f"{' and '.join(settings(''))} are these names"
    text = f"{', '.join(parts)}; {wanted}"
    if astray:
        own_name = hellos[astray[0]]["own_name"]
        text += f"; unset, gloo announces {own_name} on {fold_names(astray)}, since the name resolves to it"
    return text


def _apart(hellos: Hellos, reached: Reached, chosen: InterfaceMap) -> Iterator[str]:
    """Yield interfaces, faster than the chosen ones, through which most hosts reach one another, and the hosts that they do not reach."""
    joined = [
        {
            host: interface
            for host, interface in one.items()
            if 2 * sum(of.get(host, {}).get(interface) == "reached" for of in reached.values()) >= len(hellos) - 1
        }
        for one in _shared(hellos)
    ]
    for one in joined:
        is_most = len(hellos) < 2 * len(one) < 2 * len(hellos)
        is_part = any(one.items() < other.items() for other in joined)
        if is_most and not is_part and _mbit_s(hellos, one) > _mbit_s(hellos, chosen):
            rest = fold_names([host for host in hellos if host not in one])
            yield f"{len(one)} of {len(hellos)} hosts meet on {_describe(one)}, {rest} not; all meet on {_describe(chosen)}"


def _mbit_s(hellos: Hellos, interface_map: InterfaceMap) -> float:
    """Return the speed of the slowest link; infinity for InfiniBand and 0 for others where the kernel knows none."""
    links = [one for host in interface_map for one in hellos[host]["interfaces"] if one["name"] == interface_map[host]]
    return min(one["mbit_s"] or (float("inf") if one["name"].startswith("ib") else 0.0) for one in links)


def _closed(hellos: Hellos, reached: Reached, gloo: Sequence[AllReduceTrial]) -> str:
    if bare := [host for host, hello in hellos.items() if not hello["interfaces"]]:
        return f"no interface that leads out of the host has an address: {fold_names(bare)}"
    if not (known := interface_maps(hellos)):
        return f"no interface has the same name or the same network on all {len(hellos)} hosts"
    if problems := [problem for trial in gloo for problem in trial.problems]:
        return f"hosts reach one another and cannot exchange: {_first(problems)}"
    tried = "; ".join(f"{_describe(one)}: {_first(obstacles(one, reached))}" for one in known)
    return f"no interface joins the {len(hellos)} hosts: {tried}"


def _remedy(hellos: Hellos) -> str:
    ports = next(iter(hellos.values()))["ports"]
    low = min(hello["ephemeral"][0] for hello in hellos.values())
    high = max(hello["ephemeral"][1] for hello in hellos.values())
    return (
        f"let the hosts reach one another on one interface by TCP, ports {ports[0]}-{ports[1]}, where they meet, and {low}-{high}, where "
        "gloo and NCCL listen; nothing that is served from one host needs it"
    )


def _by_backend(
    trials: Sequence[AllReduceTrial], interface_map: InterfaceMap
) -> Mapping[str, Sequence[AllReduceTrial]]:
    """Return the exact trials of a map, by back end."""
    return gather((one.backend, one) for one in trials if one.interface_map == interface_map and one.is_exact)


def _slow_parts(trials: Sequence[AllReduceTrial]) -> Iterator[str]:
    """Yield what is far slower than the rest: hosts in all their pairs, then pairs of other hosts."""
    share, where = own_table(PAIRS)["pairs"]["share"], _describe(trials[0].interface_map)
    by_host = gather((host, trial) for trial in trials for host in trial.answers)
    widest = {host: max(_narrowest([trial]) for trial in of_it) for host, of_it in by_host.items()}
    most = max(widest.values())
    slow = [host for host, of_it in by_host.items() if len(of_it) > 1 and not widest[host] >= share * most]
    for host in slow:
        reached = f"reaches at most {widest[host] / 1e9:.2f} GB/s on {where} in each of its {len(by_host[host])} pairs"
        yield f"{trials[0].backend} on {host} {reached}, the fastest pair reaches {most / 1e9:.2f} GB/s"
    rest = [trial for trial in trials if not any(host in slow for host in trial.answers)]
    for trial in rest:
        speed, median = _narrowest([trial]), _median(rest)
        if not speed >= share * median:
            pair = f"{trial.backend} between {' and '.join(trial.answers)} reaches {speed / 1e9:.2f} GB/s on {where}"
            yield f"{pair}, the median of {len(rest)} pairs is {median / 1e9:.2f} GB/s"


def _figures(trials: Sequence[AllReduceTrial], interface_map: InterfaceMap) -> Iterator[Figure]:
    rule = own_table(PAIRS)["pairs"]
    for backend, of_it in _by_backend(trials, interface_map).items():
        yield Figure(f"{backend}, smallest all-reduce of the slowest pair", _slowest(of_it) * 1e6, "us")
        yield Figure(f"{backend}, large all-reduce of the slowest pair", _narrowest(of_it) / 1e9, "GB/s")
        if len(of_it) > 1:
            share, source = _narrowest(of_it) / _median(of_it), rule["source"]
            yield Figure(f"{backend}, slowest pair", share, "of the median", floor=rule["share"], source=source)


def _median(trials: Sequence[AllReduceTrial]) -> float:
    return statistics.median(_narrowest([trial]) for trial in trials)


def _slowest(trials: Sequence[AllReduceTrial]) -> float:
    return float(max(answer["latency"] for trial in trials for answer in trial.answers.values()))


def _narrowest(trials: Sequence[AllReduceTrial]) -> float:
    return float(min(answer["bandwidth"] for trial in trials for answer in trial.answers.values()))


def _describe(interface_map: InterfaceMap) -> str:
    """Return `eth0` where all hosts use it, else the interface of each host."""
    names = set(interface_map.values())
    return names.pop() if len(names) == 1 else ", ".join(f"{name} of {host}" for host, name in interface_map.items())


def _not_reached(reached: Reached) -> dict[str, dict[str, dict[str, str]]]:
    """Return only the failed connections, by caller, host and interface."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for caller, hosts in reached.items():
        for host, interfaces in hosts.items():
            if failed := {interface: how for interface, how in interfaces.items() if how != "reached"}:
                found.setdefault(caller, {})[host] = failed
    return found


def _first(texts: Sequence[str]) -> str:
    return first_few(texts, MOST_SHOWN, more="; and")
