"""devices.cpu: vector instructions and threads that torch uses on the CPU."""

import os
from collections.abc import Collection, Sequence
from dataclasses import replace

from verify.host.cpu import Node, nodes, own_flags
from verify.host.views import torch_view
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table


def run(context: CheckContext) -> CheckResult:
    torch = torch_view.load()
    cpus, threads = frozenset(os.sched_getaffinity(0)), torch.get_num_threads()
    used, flags = str(torch.backends.cpu.get_cpu_capability()), own_flags()
    if "slow" in context.faults:
        cpus, threads, used, flags = frozenset(range(8)), 1, "DEFAULT", frozenset({"avx2", "fma"})
    outcome = evaluate(usable=len(cpus), threads=threads, used=used, flags=flags)
    return with_nodes(outcome, nodes(), cpus)


def evaluate(*, usable: int, threads: int, used: str, flags: Collection[str]) -> CheckResult:
    """Compare the instruction set and threads that torch uses with what the CPU has."""
    rows = table("cpu")["capability"]
    best = next((row["name"] for row in rows if set(row["flags"]) <= set(flags)), None)
    figures = (Figure("usable CPUs", usable, "count"), Figure("torch threads", threads, "count"))
    evidence = {"torch instruction set": used, "CPU": best, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    names = [row["name"] for row in rows]
    if best and (used not in names or names.index(used) > names.index(best)):
        text = f"torch computes with {used} on a CPU that has {best}"
        return CheckResult("warn", text, figures, evidence, remedy="unset ATEN_CPU_CAPABILITY")
    if threads * table("cpu")["threads"]["cpus_per_thread"] < usable:
        text = f"torch computes with {threads} threads on {usable} usable CPUs"
        return CheckResult("warn", text, figures, evidence, remedy="unset OMP_NUM_THREADS")
    text = f"torch computes with {used} and {threads} threads on {usable} usable CPUs"
    return CheckResult("ok", text, figures, evidence)


def with_nodes(outcome: CheckResult, nodes: Sequence[Node], cpus: Collection[int]) -> CheckResult:
    """Add what is known about NUMA nodes; `cpus` are those that this process may use."""
    if not nodes:
        return outcome
    used = [node for node in nodes if node.cpus & set(cpus)]
    figures = (*outcome.figures, Figure("NUMA nodes", len(nodes), "count"), Figure("of them used", len(used), "count"))
    details = [{"node": node.number, "cpus": len(node.cpus), "memory": node.memory} for node in nodes]
    evidence = {**outcome.evidence, "NUMA": details}
    bare = [str(node.number) for node in used if not node.memory]
    if bare and len(bare) < len(nodes) and outcome.status == "ok":
        text = f"NUMA node {', '.join(bare)} has CPUs and no memory: all its reads go to another node"
        return CheckResult("warn", text, figures, evidence, remedy="install memory in the channels of that socket")
    where = f"of {len(used)} of {len(nodes)} NUMA nodes" if len(nodes) > 1 else "of one NUMA node"
    reason = f"{outcome.reason} {where}" if outcome.status == "ok" else outcome.reason
    return replace(outcome, reason=reason, figures=figures, evidence=evidence)
