"""vLLM that takes Ray on a CPU: a platform of the tests, and the product with the one fact changed that follows from it.

    python -m tests.fleet.ray_on_cpu COMMAND ...

The platform is vLLM's own for CPUs but for two things. It has a name for what Ray counts: without one, vLLM takes no Ray. Ray counts as
many cards as it is said to have, so the product's commands are those for cards. And its processes speak gloo alone: where they meet at one
port, vLLM 0.32.0 takes them for those of one machine, whose memory they share (vllm/v1/worker/cpu_worker.py, VLLM_DIST_IDENT).
"""

from provision.cli.main import main
from provision.phases.plan.rules.model import WITHOUT_RAY
from tests.fleet.hosts import FleetHost

FOLDER = "/srv/ray-on-cpu"
"""Folder on a host with the plugin, for PYTHONPATH of the service."""
_MODULE = """from vllm.platforms.cpu import CpuPlatform


class RayOnCpu(CpuPlatform):
    ray_device_key = "GPU"

    @classmethod
    def get_device_communicator_cls(cls):
        return "ray_on_cpu_gloo.Gloo"


def plugin():
    return "ray_on_cpu.RayOnCpu"
"""
_COMMUNICATOR = """from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator


class Gloo(CpuCommunicator):
    def _all_group_ranks_share_shm_group_name(self):
        return False
"""
_ENTRY_POINTS = """[vllm.platform_plugins]
ray_on_cpu = ray_on_cpu:plugin
"""
_METADATA = """Metadata-Version: 2.1
Name: ray-on-cpu
Version: 1
"""


def give_platform(host: FleetHost) -> None:
    """Put the platform's plugin on a host."""
    files = {
        "ray_on_cpu.py": _MODULE,
        "ray_on_cpu_gloo.py": _COMMUNICATOR,
        "ray_on_cpu-1.dist-info/entry_points.txt": _ENTRY_POINTS,
        "ray_on_cpu-1.dist-info/METADATA": _METADATA,
    }
    folder = host.machine.root / FOLDER.lstrip("/")
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    WITHOUT_RAY.clear()
    main()
