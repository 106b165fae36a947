"""One of two processes on two hosts that run an all-reduce: correctness, latency and bandwidth."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore

from verify.host import devices
from verify.inputs import corrupt, count_differences, rank_values
from verify.tables import table
from verify.timing import median_s, reduce_sum

WORLD = 2
LENGTH = 100_003
"""Numbers per process; not a power of two, so that pieces differ in size."""


def run_trial(
    rank: int, interface: str, address: str, port: int, *, backend: str, faults: frozenset[str]
) -> dict[str, Any]:
    """Run one of two processes of an all-reduce; call it in a child process. Raises torch's error if they cannot connect.

    Args:
        rank: 0 or 1.
        interface: Interface to use.
        address: Address of the process with rank 0.
        port: Its port.
        backend: `gloo` or `nccl`.
        faults: Injected faults.

    Returns:
        `wrong` numbers, `latency` of the smallest all-reduce in s, `bandwidth` of a large one in bytes/s; or `skip`, a reason.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
    meeting, load = table("network")["meeting"], table("network")["exchange"]
    device = "cuda:0" if backend == "nccl" else "cpu"
    limit = timedelta(seconds=meeting["find_s"])
    store = dist.TCPStore(address, port, WORLD, is_master=rank == 0, timeout=limit)
    if device != "cpu":
        least = _least_free(store, rank, device)
        if least < load["gpu_bytes"]:
            return {
                "skip": f"{least / 2**30:.1f} GiB of a GPU are free, {load['gpu_bytes'] / 2**30:.1f} GiB are needed"
            }
    dist.init_process_group(backend, store=store, rank=rank, world_size=WORLD, timeout=limit)

    given = [rank_values(LENGTH, number) for number in range(WORLD)]
    reduced = given[rank].to(device, copy=True)
    dist.all_reduce(reduced)
    got = corrupt(reduced.cpu()) if "wrong-result" in faults else reduced.cpu()
    one, many = (torch.ones(length, device=device) for length in (1, load["large_numbers"]))
    latency = median_s(lambda: reduce_sum(one), load["small_times"], load["warm_up"])
    large = median_s(lambda: reduce_sum(many), load["large_times"], load["warm_up"])
    dist.barrier()
    dist.destroy_process_group()
    # Each of two processes sends its numbers once, so each direction carries the bytes of the array.
    size = many.numel() * many.element_size()
    return {
        "wrong": count_differences(got, torch.stack(given).sum(dim=0)),
        "latency": latency,
        "bandwidth": size / large,
    }


def _least_free(store: TCPStore, rank: int, device: str) -> int:
    """Return the free bytes of the fuller GPU. Both processes must decide alike, or one would wait for the other."""
    free, _ = devices.memory(device)
    store.set(f"free {rank}", str(free))
    least = min(int(store.get(f"free {number}")) for number in range(WORLD))
    store.set(f"read {rank}", "")
    store.wait([f"read {number}" for number in range(WORLD)])  # the store ends with the process of rank 0
    return least
