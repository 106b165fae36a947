"""The folder of what a service's engine compiles when it starts, named by all that changes compiled code. It is never used for another key."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from provision.core.models.facts import AmdGpu, HostFacts
from provision.phases.serve.devices import Devices
from provision.phases.serve.options import options

KEY_LENGTH = 16


def key_of(
    facts: HostFacts, devices: Devices, *, prefix: str, served: Sequence[str], variables: Mapping[str, str]
) -> str:
    """Return the key of a service's start cache: a digest of all that may change compiled code.

    Packages of the system are left out: an update of its compiler would rename the folder, and restart the service for that.

    Args:
        devices: The devices that it serves on.
        prefix: Folder of the installation, whose paths compiled code contains.
        served: Environment, model, and arguments of the server without its address and its name.
        variables: Environment variables of the server, without the paths of its caches.
    """
    sets = tuple(options()["start_cache"]["instruction_sets"])
    content = [
        _cards(facts, devices),
        [facts.os.machine, facts.os.libc, facts.os.libc_version],
        [facts.cpu.model, facts.cpu.logical, sorted(flag for flag in facts.cpu.flags if flag.startswith(sets))],
        [prefix, devices.model_dump(exclude=None if devices.part else {"part"}), *served],
        dict(variables),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


def _cards(facts: HostFacts, devices: Devices) -> list[Any]:
    """Return the driver, and each kind of card that is served on."""
    vendor = {"cuda": facts.nvidia, "rocm": facts.amd, "cpu": None}[devices.platform]
    if vendor is None:
        return []
    chosen = [gpu for gpu in vendor.gpus if gpu.index in devices.indexes]
    kinds = {(gpu.name, gpu.gfx if isinstance(gpu, AmdGpu) else gpu.compute_capability) for gpu in chosen}
    return [vendor.driver_version, sorted(kinds, key=str)]


def folder_of(prefix: str, key: str) -> str:
    """Return the folder of a key on a host."""
    return f"{prefix}/cache/start-{key}"


def variables_of(folder: str) -> dict[str, str]:
    """Return the variables by which vLLM and its libraries keep in a folder what they compile."""
    return {
        "VLLM_CACHE_ROOT": f"{folder}/vllm",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/torchinductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "FLASHINFER_WORKSPACE_BASE": folder,
    }
