"""Memory of NVIDIA GPUs, and the processes that hold it; slices of them."""

from __future__ import annotations

from dataclasses import dataclass

from verify.files import printed

NVIDIA_SMI_TIMEOUT_S = 15


def ask_nvidia_smi(*arguments: str) -> list[str]:
    """Return the lines of an answer of nvidia-smi; empty when there is none or it does not answer."""
    said = printed(["nvidia-smi", *arguments], limit_s=NVIDIA_SMI_TIMEOUT_S, may_fail=False) or ""
    return [line for line in said.splitlines() if line]


def query_nvidia_smi(query: str) -> list[list[str]]:
    """Return the rows of a query of nvidia-smi; empty when there is none or it does not answer."""
    lines = ask_nvidia_smi(query, "--format=csv,noheader,nounits")
    return [[cell.strip() for cell in line.split(",")] for line in lines]


def slice_problem(uuid: str) -> str | None:
    """Return the problem of a slice that nvidia-smi does not list; None where it lists it, or nothing."""
    lines = ask_nvidia_smi("-L")
    if not lines or any(f"(UUID: {uuid})" in line for line in lines):
        return None
    return f"there is no slice {uuid}: slices are lost when the host restarts; make it again, then provision the host"


@dataclass(frozen=True)
class CardMemory:
    """One GPU's memory in MiB, and (PID, MiB) of each process that holds some of it according to the driver."""

    index: int
    total: int
    used: int
    holders: tuple[tuple[int, int], ...] = ()


def nvidia_memory() -> list[CardMemory]:
    """Return the memory of NVIDIA GPUs; empty where nvidia-smi does not answer."""
    holders: dict[str, list[tuple[int, int]]] = {}
    for row in query_nvidia_smi("--query-compute-apps=gpu_uuid,pid,used_memory"):
        if len(row) == 3 and row[1].isdigit():
            holders.setdefault(row[0], []).append((int(row[1]), int(row[2]) if row[2].isdigit() else 0))
    return [
        CardMemory(int(row[0]), int(row[2]), int(row[3]), tuple(holders.get(row[1], ())))
        for row in query_nvidia_smi("--query-gpu=index,uuid,memory.total,memory.used")
        if len(row) == 4 and all(row[cell].isdigit() for cell in (0, 2, 3))
    ]
