"""One of the processes on several hosts that run an all-reduce: correctness, latency and bandwidth."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore

from verify.host import devices
from verify.host.network import interface_variables
from verify.inputs import bus_bytes, count_differences, median_s, rank_values, reduce_sum
from verify.tables import table

LENGTH = 100_003
"""Numbers per process; not a power of two, so that pieces differ in size."""


def run_trial(rank: int, world: int, *, interface: str, address: str, port: int, device: str) -> dict[str, Any]:
    """Run one process of an all-reduce; call it in a child process. Raises torch's error if they cannot connect.

    Args:
        rank: Its number among all processes.
        world: Number of processes on all hosts.
        address: Address of the process with rank 0.
        device: Its GPU, for NCCL; `cpu` for gloo.

    Returns:
        `wrong` numbers, `latency` of the smallest all-reduce in s, bus `bandwidth` of a large one in bytes/s; or `skip`, a reason.
    """
    os.environ |= interface_variables(interface)
    meeting, load = table("network")["meeting"], table("network")["exchange"]
    kind = "cpu" if device == "cpu" else "gpu"
    find_s, exchange_s = (timedelta(seconds=meeting[name]) for name in ("find_s", f"exchange_{kind}_s"))
    store = dist.TCPStore(address, port, world, is_master=rank == 0, timeout=find_s)
    if kind == "gpu":
        torch.cuda.set_device(device)
        least = _least_free(store, rank, world, device)
        if least < load["gpu_bytes"]:
            return {
                "skip": f"{least / 2**30:.1f} GiB of a GPU are free, {load['gpu_bytes'] / 2**30:.1f} GiB are needed"
            }
    backend = "gloo" if kind == "cpu" else "nccl"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=exchange_s)

    given = [rank_values(LENGTH, number) for number in range(world)]
    reduced = given[rank].to(device, copy=True)
    dist.all_reduce(reduced)
    one, many = torch.zeros(1, device=device), torch.ones(load[f"{kind}_numbers"], device=device)
    latency = median_s(lambda: reduce_sum(one), load["small_times"], load["warm_up"])
    large = median_s(lambda: reduce_sum(many), load["large_times"], load["warm_up"])
    dist.barrier()
    dist.destroy_process_group()
    size = bus_bytes(many.numel() * many.element_size(), world)
    return {
        "wrong": count_differences(reduced.cpu(), torch.stack(given).sum(dim=0)),
        "latency": latency,
        "bandwidth": size / large,
    }


def _least_free(store: TCPStore, rank: int, world: int, device: str) -> int:
    """Return the free bytes of the fullest GPU. All processes must decide alike, or some would wait for the others."""
    free, _ = devices.memory(device)
    store.set(f"free {rank}", str(free))
    least = min(int(store.get(f"free {number}")) for number in range(world))
    store.set(f"read {rank}", "")
    store.wait([f"read {number}" for number in range(world)])  # the store ends with the process of rank 0
    return least
