"""The wheel builder with real hosts: a wheel is installed with torch, and one is built there."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.features.wheel_builder.wheel_builder import WheelBuilder
from provision.fleet.inventory import load
from provision.fleet.ssh import open_session
from provision.fleet.ssh.session import Session
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.conftest import Site, no_interpreter, site
from tests.features.wheel_builder.standin import standin_job
from tests.fleet.hosts import FleetHost
from tests.install.fleet_site import make_fleet_site

pytestmark = pytest.mark.long(seconds=90)

__all__ = ["site"]  # a fixture

PREFIX = "/opt/firstlight"
PYTHON = "3.11"
"""Of the test hosts."""
LAUNCH = """
import ctypes, glob, torch
runtime, = glob.glob("{prefix}/envs/*/lib/python*/site-packages/nvidia/cu13/lib/libcudart.so.13")
ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
import sample_extension
try:
    sample_extension.launch()
    print(torch.__version__, "launched")
except RuntimeError as error:
    print(torch.__version__, "CUDA says" in str(error))
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the wheel is for this Python, and test hosts have 3.11")
def test_a_built_wheel_is_installed_last_and_runs_with_the_host_s_torch(
    site: Site, pair: list[FleetHost], tmp_path: Path
) -> None:
    host, store = pair[1], site.job.store
    [runtime] = store.root.glob("files/*/*/nvidia_cuda_runtime-*.whl")
    wheels = [Path(file.path) for file in site.staged.files if file.kind == "wheel"]
    there = make_fleet_site(tmp_path, host)
    # The runtime that torch's CUDA build would install.
    there.use_wheels([*wheels, runtime])
    environment = there.variables["firstlight_environment"]
    there.plan(firstlight_environment={**environment, "last": ["flash-attn"]})
    there.send()
    result = there.play("install")
    assert (result.status, result.changed) == ("ok", True), result
    # Without a GPU the runtime fails with the text of torch's check, so the extension was loaded and calls the runtime.
    assert host.sh(f"{PREFIX}/envs/*/bin/python -c '{LAUNCH.format(prefix=PREFIX)}'").split() == ["2.13.0+cpu", "True"]
    host.sh(f"rm -rf {PREFIX} /var/tmp/firstlight-0")


@pytest.fixture
def builder(pair: list[FleetHost], tmp_path: Path) -> Iterator[FleetHost]:
    """A host with substitutes for Python's headers."""
    host, header = pair[0], f"/usr/include/python{PYTHON}/Python.h"
    host.sh(f"mkdir -p $(dirname {header}) && touch {header}")
    yield host
    host.sh(f"rm -rf $(dirname {header}) /root/.cache/firstlight")


def test_a_host_builds_for_the_fleet_over_ssh(builder: FleetHost, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit_bytes=1 << 40)
    reported: list[str] = []
    job = replace(
        standin_job(tmp_path, store, python=PYTHON), progress=lambda what, _done, _total: reported.append(what)
    )
    hosts = load(builder.inventory(tmp_path)).hosts

    def open_host(name: str) -> Session:
        return open_session(next(host for host in hosts if host.name == name))

    wheel_builder = WheelBuilder(store, open_host, interpreter=no_interpreter)
    built = wheel_builder.find_or_build(job, builder.name)
    assert (built.builder, built.codes) == (builder.name, ())
    assert store.find(built.sha256, built.name)
    assert built.name.startswith("flash_attn-2.8.3+rocm64torch2.8cxx11abi")
    assert any("creating the build environment" in line for line in reported)
    assert "Successfully built flash_attn" in Path(built.log).read_text()
    assert builder.sh("ls /root/.cache/firstlight/builds").split() == ["builder.pyz"]


def test_a_host_without_a_compiler_is_refused_before_anything_is_sent(builder: FleetHost, tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", limit_bytes=1 << 40)
    job = standin_job(tmp_path, store, python=PYTHON)
    compiled = job.key.model_copy(
        update={
            "built_for": job.key.built_for.model_copy(update={"cuda_major": 13, "rocm": None, "capabilities": ("9.0",)})
        }
    )
    hosts = load(builder.inventory(tmp_path)).hosts
    wheel_builder = WheelBuilder(store, lambda _: open_session(hosts[0]), interpreter=no_interpreter)
    with pytest.raises(StageError, match=rf"{builder.name} has no C\+\+ compiler"):
        wheel_builder.find_or_build(replace(job, key=compiled, cuda="13.0"), builder.name)
    assert builder.sh("ls /root/.cache/firstlight/builds").split() == ["builder.pyz"]
