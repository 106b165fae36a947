"""devices.cpu: vector instructions and threads that torch uses on the CPU."""

import os
from collections.abc import Collection, Sequence

from verify.host.cpu import Node, nodes, own_flags
from verify.host.views import torch_view
from verify.records import CheckContext, CheckResult, Figure, Observation, combine
from verify.tables import table


def run(context: CheckContext) -> CheckResult:
    torch = torch_view.load()
    cpus, threads = frozenset(os.sched_getaffinity(0)), torch.get_num_threads()
    used, flags = str(torch.backends.cpu.get_cpu_capability()), own_flags()
    if "slow" in context.faults:
        cpus, threads, used, flags = frozenset(range(8)), 1, "DEFAULT", frozenset({"avx2", "fma"})
    return evaluate(cpus=cpus, threads=threads, used=used, flags=flags, nodes=nodes())


def evaluate(
    *, cpus: Collection[int], threads: int, used: str, flags: Collection[str], nodes: Sequence[Node]
) -> CheckResult:
    """Compare the instruction set and threads that torch uses with what the CPU has; `cpus` are those that this process may use."""
    rows = table("cpu")["capability"]
    best = next((row["name"] for row in rows if set(row["flags"]) <= set(flags)), None)
    names = [row["name"] for row in rows]
    near = [node for node in nodes if node.cpus & set(cpus)]
    bare = [str(node.number) for node in near if not node.memory]
    observations = []
    if best and (used not in names or names.index(used) > names.index(best)):
        text = f"torch computes with {used} on a CPU that has {best}"
        observations.append(Observation("warn", text, "unset ATEN_CPU_CAPABILITY"))
    if threads * table("cpu")["threads"]["cpus_per_thread"] < len(cpus):
        text = f"torch computes with {threads} threads on {len(cpus)} usable CPUs"
        observations.append(Observation("warn", text, "unset OMP_NUM_THREADS"))
    if bare and len(bare) < len(nodes):
        text = f"NUMA node {', '.join(bare)} has CPUs and no memory: all its reads go to another node"
        observations.append(Observation("warn", text, "install memory in the channels of that socket"))
    figures = (
        Figure("usable CPUs", len(cpus), "count"),
        Figure("torch threads", threads, "count"),
        Figure("NUMA nodes", len(nodes), "count"),
        Figure("of them used", len(near), "count"),
    )
    evidence = {
        "torch instruction set": used,
        "CPU": best,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "NUMA": [{"node": node.number, "cpus": len(node.cpus), "memory": node.memory} for node in nodes],
    }
    where = f" of {len(near)} of {len(nodes)} NUMA nodes" if len(nodes) > 1 else " of one NUMA node" if nodes else ""
    healthy = f"torch computes with {used} and {threads} threads on {len(cpus)} usable CPUs{where}"
    return combine(observations, healthy, figures, evidence)
