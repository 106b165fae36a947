"""One of two processes on two hosts that meet through an interface and reduce numbers: exact, how soon and how fast."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from verify import devices
from verify.inputs import corrupt, count_differences, rank_values
from verify.tables import table
from verify.timing import median_s, reduce_sum

if TYPE_CHECKING:
    from torch.distributed import TCPStore

WORLD = 2
LENGTH = 100_003
"""Numbers of each process: no power of two, so that pieces are of unequal size."""


def run_trial(
    rank: int, interface: str, address: str, port: int, *, backend: str, faults: frozenset[str]
) -> dict[str, Any]:
    """What this process got: `wrong` numbers, `latency` in s of the smallest all-reduce, `bandwidth` in bytes/s of a large one.

    Or `skip`, the reason why it was not tried. `address` and `port` are those of the process with rank 0. Call it in a
    process of its own. Raises whatever torch raises where they do not meet.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = interface
    import torch
    import torch.distributed as dist

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
    # Of two processes each sends its numbers once: what goes over the wire each way are the bytes of the array.
    size = many.numel() * many.element_size()
    return {
        "wrong": count_differences(got, torch.stack(given).sum(dim=0)),
        "latency": latency,
        "bandwidth": size / large,
    }


def _least_free(store: TCPStore, rank: int, device: str) -> int:
    """Bytes free on the fuller of the two GPUs: both decide alike, or one would wait for the other."""
    free, _ = devices.memory(device)
    store.set(f"free {rank}", str(free))
    least = min(int(store.get(f"free {number}")) for number in range(WORLD))
    store.set(f"read {rank}", "")
    store.wait([f"read {number}" for number in range(WORLD)])  # the store ends with the process of rank 0
    return least
