"""The work on a host's drivers, for each kind of host, from facts and Stack alone."""

from typing import Any

import pytest

from provision.catalog import catalog
from provision.catalog.packages import package_system, repository_of_component
from provision.core.errors import InstallError, UsageError
from provision.core.models.facts import (
    Amd,
    AmdGpu,
    CudaToolkit,
    GpuSlice,
    HostFacts,
    Nvidia,
    NvidiaGpu,
    OperatingSystem,
    PciGpu,
    Program,
)
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.models.stack import (
    AttentionPlan,
    CudaCompat,
    DriverPlan,
    FlashAttnPlan,
    Interpreter,
    RocmPlan,
    Stack,
    TorchBuild,
    VllmBuild,
)
from provision.phases.drivers.step import unproven
from provision.phases.install.drivers import DriverWork, driver_work
from provision.phases.plan import rocm as planned_rocm

NEW = "580.178.04"
OWN_VERSION = "580.173.02"
"""The release of Ubuntu's own driver (provision/catalog/packages.toml)."""
INSTALL = DriverPlan(action="install", version=NEW, module="open")
KEEP = DriverPlan(action="keep", version=NEW, module="open")
H100 = PciGpu(address="0000:19:00.0", vendor_id="10de", device_id="2330", class_id="030200")
MI300X = PciGpu(address="0000:05:00.0", vendor_id="1002", device_id="74a1", class_id="120000")
DRIVEN = (AmdGpu(index=0, gfx="gfx942", pci_address="0000:05:00.0"),)


def stack(driver: DriverPlan | None = KEEP, *, variant: str = "cu130", **values: Any) -> Stack:
    known: dict[str, Any] = {
        "vllm": VllmBuild(version="0.32.0", variant=variant),
        "torch": TorchBuild(version="2.13.0", variant=variant),
        "driver": driver,
        "flash_attn": FlashAttnPlan(provider="bundled"),
        "attention": AttentionPlan(backend="FLASH_ATTN"),
        "python": "3.12",
        "interpreter": Interpreter(version="3.12", origin="managed"),
        "platform": "x86_64-manylinux_2_35",
    }
    return Stack(**{**known, **values})


def facts(os_id: str = "ubuntu", version_id: str = "24.04", machine: str | None = "x86_64", **values: Any) -> HostFacts:
    known: dict[str, Any] = {
        "host": "gpu-1",
        "probed_at": "2026-11-20T08:00:00.000Z",
        "os": OperatingSystem(id=os_id, version_id=version_id, machine=machine),
        "pci_gpus": (H100,),
        "nvidia": Nvidia(),
    }
    return HostFacts(**{**known, **values})


def work(seen: HostFacts, planned: Stack, **settings: Any) -> DriverWork:
    host = Host(name="gpu-1", connection=Connection(kind="ssh", address="gpu-1"), settings=Settings(**settings))
    return driver_work(host, seen, planned)


@pytest.mark.parametrize(
    ("os_id", "version_id", "machine", "uri"),
    [
        ("ubuntu", "22.04", "x86_64", "ubuntu2204/x86_64/"),
        ("ubuntu", "24.04", "aarch64", "ubuntu2404/sbsa/"),
        ("debian", "12", "x86_64", "debian12/x86_64/"),
        ("debian", "13", "x86_64", "debian13/x86_64/"),
        ("rhel", "8.10", "x86_64", "rhel8/x86_64/"),
        ("rhel", "9.6", "x86_64", "rhel9/x86_64/"),
        ("amzn", "2023", "x86_64", "amzn2023/x86_64/"),
        ("rocky", "9.5", "aarch64", "rhel9/sbsa/"),
        ("almalinux", "9.4", "x86_64", "rhel9/x86_64/"),
        ("ubuntu", "24.04", None, "ubuntu2404/x86_64/"),  # a described host: the plan assumes x86_64
    ],
)
def test_a_driver_comes_from_its_vendors_signed_repository(
    os_id: str, version_id: str, machine: str | None, uri: str
) -> None:
    driver = work(facts(os_id, version_id, machine), stack(INSTALL)).parts["driver"]
    repository = driver["repository"]
    assert repository["uri"] == f"https://developer.download.nvidia.com/compute/cuda/repos/{uri}"
    assert (driver["version"], driver["packages"][0]) == (NEW, "nvidia-open|nvidia-open-580")


def test_debian_13_has_a_key_of_its_own() -> None:
    """Its apt refuses the signatures of the key that the older releases' folders have."""
    for version_id, key in (("12", "nvidia-cuda.asc"), ("13", "8793F200.pub")):
        driver = work(facts("debian", version_id), stack(INSTALL)).parts["driver"]
        assert driver["repository"]["key"].rpartition("/")[2] == key


def test_rocm_for_enterprise_linux_9_is_not_offered_to_8() -> None:
    with pytest.raises(UsageError, match="the catalog has no repository with rocm for rhel 8"):
        repository_of_component("rocm", os_id="rhel", version_id="8.10", machine="x86_64", mirror=None, key=None)


def test_every_repository_is_signed() -> None:
    for row in catalog().package_repositories:
        assert row.base.startswith("https://")
        assert len(row.fingerprint) == 40


def test_the_module_flavour_decides_the_packages() -> None:
    driver = work(facts(), stack(INSTALL.model_copy(update={"module": "proprietary"}))).parts["driver"]
    assert driver["packages"][0] == "cuda-drivers|cuda-drivers-580"


OWN = DriverPlan(
    action="install", version=NEW, module="open", source="distribution", branch="580", at_least="580.65.06", below="581"
)


@pytest.mark.parametrize(
    ("kernel", "meta"),
    [
        ("6.8.0-87-generic", "linux-modules-nvidia-580-server-open-generic"),
        ("6.14.0-35-generic", "linux-modules-nvidia-580-server-open-generic-hwe-24.04"),
        ("6.14.0-1017-aws", "linux-modules-nvidia-580-server-open-aws"),
        ("6.8.0-60-generic-64k", "linux-modules-nvidia-580-server-open-generic-64k"),
        ("6.8.0-1028-nvidia-64k", "linux-modules-nvidia-580-server-open-nvidia-64k"),
    ],
)
def test_the_distributions_own_driver_is_for_the_running_kernel(kernel: str, meta: str) -> None:
    system = OperatingSystem(id="ubuntu", version_id="24.04", machine="x86_64", kernel=kernel)
    found = work(facts(os=system), stack(OWN, fabric_manager=NEW))
    driver, manager = found.parts["driver"], found.parts["fabric_manager"]
    repository = driver["repository"]
    assert (repository["name"], repository["uri"], repository["origin"]) == ("ubuntu", "", "Ubuntu")
    assert "restricted" in repository["components"]
    assert driver["packages"][:2] == [f"linux-modules-nvidia-580-server-open-{kernel}", meta]
    assert (driver["source"], driver["at_least"], driver["below"]) == ("distribution", "580.65.06", "581")
    assert (manager["packages"], manager["repository"]) == (["nvidia-fabricmanager-580"], repository)
    assert "the distribution's own" in found.named()


def test_debians_own_driver_is_built_on_the_host() -> None:
    own = OWN.model_copy(update={"version": "550.163.01", "branch": "550"})
    driver = work(facts("debian", "13"), stack(own)).parts["driver"]
    assert "nvidia-open-kernel-dkms" in driver["packages"]
    assert driver["signed"] is False
    assert "non-free" in driver["repository"]["components"]
    assert "nvidia-modprobe" in driver["family"]["apart"]


def test_a_kept_driver_is_not_changed() -> None:
    assert not work(facts(), stack()).needed
    assert work(facts(), stack()).ansible_vars() == {"firstlight_reboot": False}


@pytest.mark.parametrize("kind", [{"container": "docker"}, {"wsl": True}])
def test_nothing_is_done_if_the_driver_belongs_to_another_machine(kind: dict[str, Any]) -> None:
    assert not work(facts(**kind), stack(INSTALL, fabric_manager=NEW)).needed


@pytest.mark.parametrize(
    ("version", "state", "needed"),
    [
        (NEW, "active", False),
        (NEW, None, False),
        (NEW, "failed", True),
        ("580.126.09", "active", True),
        (None, None, True),
    ],
)
def test_a_fabric_manager_is_replaced_with_a_kept_driver(version: str | None, state: str | None, needed: bool) -> None:
    seen = facts(nvidia=Nvidia(driver_version=NEW, fabric_manager_version=version, fabric_manager_state=state))
    done = work(seen, stack(fabric_manager=NEW))
    assert (done.driver, bool(done.fabric_manager)) == (None, needed)


@pytest.mark.parametrize(
    ("secure_boot", "version", "settings", "source"),
    [
        (False, OWN_VERSION, {}, "nvidia-cuda"),
        (True, NEW, {}, "nvidia-cuda"),
        (True, OWN_VERSION, {}, "ubuntu"),
        (False, NEW, {"driver_source": "distribution"}, "ubuntu"),
    ],
)
def test_the_fabric_manager_of_a_kept_driver_is_of_the_same_source(
    *, secure_boot: bool, version: str, settings: dict[str, Any], source: str
) -> None:
    """A person restarted the host after the driver was installed, or an administrator installed it."""
    seen = facts(nvidia=Nvidia(driver_version=version), secure_boot=secure_boot)
    kept = DriverPlan(action="keep", version=version, module="open")
    manager = work(seen, stack(kept, fabric_manager=version), **settings).parts["fabric_manager"]
    assert manager["repository"]["name"] == source


def test_boards_that_need_a_subnet_manager_get_it_and_its_module() -> None:
    manager = work(facts(), stack(INSTALL, fabric_manager=NEW, subnet_manager=True)).parts["fabric_manager"]
    assert (manager["extra"], manager["modules"]) == (["nvlsm", "infiniband-diags"], ["ib_umad"])


def test_a_mirror_replaces_the_vendors_repository_and_its_key() -> None:
    mirror = {"driver_repository": "https://mirror.example.com/cuda/"}
    with_key = mirror | {"driver_key": "/etc/mirror.asc"}
    own = work(facts("debian", "12"), stack(INSTALL), **with_key).parts["driver"]["repository"]
    assert own["uri"] == "https://mirror.example.com/cuda/debian12/x86_64/"
    assert (own["key"], own["fingerprint"]) == ("/etc/mirror.asc", None)
    # A mirror that only copies has the vendor's own signature.
    copied = work(facts("debian", "12"), stack(INSTALL), **mirror).parts["driver"]["repository"]
    assert copied["fingerprint"] == "EB693B3035CD5710E231E123A4B469963BF863CC"


@pytest.mark.parametrize(("system", "key"), [(("debian", "13"), "8793F200.pub"), (("rocky", "9"), "D42D0685.pub")])
def test_a_host_fetches_the_vendors_key_from_the_mirror(system: tuple[str, str], key: str) -> None:
    settings = {"driver_repository": "https://mirror.example.com/cuda"}
    found = work(facts(*system), stack(INSTALL), **settings).parts["driver"]["repository"]
    assert found["key"] == f"{found['uri']}{key}"
    assert found["uri"].startswith("https://mirror.example.com/cuda/")
    assert found["fingerprint"]


def test_a_toolkit_is_installed_only_if_it_is_requested_and_missing() -> None:
    assert work(facts(), stack()).cuda_toolkit is None
    assert work(facts(), stack(), cuda_toolkit="13.0").parts["cuda_toolkit"]["packages"] == [
        "cuda-nvcc-13-0",
        "cuda-cudart-dev-13-0|cuda-cudart-devel-13-0",
        "libcurand-dev-13-0|libcurand-devel-13-0",
    ]
    there = facts(cuda_toolkits=(CudaToolkit(path="/usr/local/cuda-13.0", version="13.0.2"),))
    assert not work(there, stack(), cuda_toolkit="13.0").needed
    assert work(there, stack(), cuda_toolkit="13.1").needed
    part = CudaToolkit(path="/usr/local/cuda-13.0", version="13.0.2", lacks=("include/curand_kernel.h",))
    assert work(facts(cuda_toolkits=(part,)), stack(), cuda_toolkit="13.0").needed


def test_compatibility_libraries_are_installed_only_if_they_are_planned_and_missing() -> None:
    compat = CudaCompat(cuda="13.0", package="cuda-compat-13-0", folder="/usr/local/cuda-13.0/compat")
    assert work(facts(), stack()).cuda_compat is None
    wanted = work(facts(), stack(cuda_compat=compat))
    assert wanted.named() == "compatibility libraries of CUDA 13.0"
    assert wanted.parts["cuda_compat"]["packages"] == ["cuda-compat-13-0"]
    assert wanted.parts["cuda_compat"]["repository"]["uri"].endswith("/ubuntu2404/x86_64/")
    seen = unproven(wanted, facts())
    assert seen is not None
    assert "/usr/local/cuda-13.0/compat/libcuda.so.1 is not there" in seen.text
    there = facts(cuda_toolkits=(CudaToolkit(path="/usr/local/cuda-13.0", compat=True),))
    assert not work(there, stack(cuda_compat=compat)).needed
    assert unproven(wanted, there) is None
    # A toolkit without the libraries is not enough, and the libraries do not replace a toolkit.
    toolkit = facts(cuda_toolkits=(CudaToolkit(path="/usr/local/cuda-13.0", version="13.0.2"),))
    assert work(toolkit, stack(cuda_compat=compat)).needed
    assert work(there, stack(), cuda_toolkit="13.0").needed


def test_the_container_toolkit_is_installed_only_if_it_is_requested_and_missing() -> None:
    wanted = work(facts(), stack(), container_toolkit=True).parts["container_toolkit"]
    assert wanted["repository"]["name"] == "nvidia-container-toolkit"
    assert wanted["oldest"] == {"nvidia-container-toolkit": "1.19.1"}
    for version in (None, "1.19.1", "1.20.0"):
        there = facts(programs=(Program(name="nvidia-ctk", path="/usr/bin/nvidia-ctk", version=version),))
        assert not work(there, stack(), container_toolkit=True).needed
    # One below the fixed release is upgraded.
    old = facts(programs=(Program(name="nvidia-ctk", path="/usr/bin/nvidia-ctk", version="1.17.8"),))
    assert work(old, stack(), container_toolkit=True).container_toolkit
    assert not work(old, stack()).needed


def test_gpus_are_split_only_if_they_are_not_as_wanted() -> None:
    gpu = NvidiaGpu(index=0, name="NVIDIA H100 80GB HBM3", mig_mode="disabled")
    whole, wanted = facts(nvidia=Nvidia(driver_version=NEW, gpus=(gpu,))), {0: ("3g.40gb", "3g.40gb")}
    found = work(whole, stack(), mig=wanted)
    assert found.ansible_vars()["firstlight_slices"] == {"layout": "0=3g.40gb,3g.40gb"}
    seen = unproven(found, whole)
    assert seen is not None
    assert "slices of GPUs (0=3g.40gb,3g.40gb) were made, and nvidia-smi -L lists others" in seen.text
    slices = tuple(GpuSlice(index=index, profile="3g.40gb") for index in range(2))
    split = gpu.model_copy(update={"mig_mode": "enabled", "slices": slices})
    there = facts(nvidia=Nvidia(driver_version=NEW, gpus=(split,), mig_layout="0=3g.40gb,3g.40gb"))
    assert not work(there, stack(), mig=wanted).needed
    assert unproven(found, there) is None


INSTALL_ROCM = RocmPlan(action="install", version="7.2.2")
UPGRADE_ROCM = RocmPlan(action="upgrade", version="7.2.2")


@pytest.mark.parametrize(
    ("amd", "plan", "parts"),
    [
        (None, INSTALL_ROCM, ["amdgpu", "rocm"]),
        (Amd(gpus=DRIVEN), INSTALL_ROCM, ["rocm"]),
        (Amd(), INSTALL_ROCM, ["amdgpu", "rocm"]),
        (Amd(driver_version="6.12.12"), INSTALL_ROCM, ["rocm"]),
        (Amd(driver_version="6.12.12", rocm_version="7.0.2"), RocmPlan(action="keep", version="7.0.2"), None),
        (Amd(gpus=DRIVEN), None, None),
        (Amd(driver_version="6.12.12", rocm_version="6.4.1"), UPGRADE_ROCM, ["amdgpu", "rocm"]),
        (Amd(driver_version="6.16.13", rocm_version="7.0.2"), UPGRADE_ROCM, ["rocm"]),
        (Amd(rocm_version="6.4.1", gpus=DRIVEN), UPGRADE_ROCM, ["rocm"]),
    ],
    ids=[
        "bare",
        "driver there",
        "driver of the kernel, older than the GPU",
        "driver of AMD without a GPU, which another one does not mend",
        "all there",
        "build brings its own",
        "both old",
        "driver new enough",
        "driver of the kernel",
    ],
)
def test_an_amd_host_gets_missing_and_old_packages(
    amd: Amd | None, plan: RocmPlan | None, parts: list[str] | None
) -> None:
    modules = ("amdgpu",) if amd else ()
    seen = facts(pci_gpus=(MI300X,), nvidia=None, kernel_modules=modules, amd=amd or Amd())
    done = work(seen, stack(None, variant="rocm7.2", rocm=plan))
    assert (done.rocm["parts"] if done.rocm else None) == parts
    if parts:
        assert done.named() == " and ".join(parts) + " 7.2.2"


def test_the_offered_rocm_is_that_of_the_repositories() -> None:
    row = catalog().package_components["rocm"]
    paths = [repository.path for repository in catalog().package_repositories if repository.name == row.repository]
    assert paths
    assert all(f"/{planned_rocm.offered()}" in path for path in paths)


@pytest.mark.parametrize(("os_id", "before"), [("rocky", ["epel-release"]), ("rhel", []), ("ubuntu", [])])
def test_the_source_of_dkms_is_added_before_the_driver(os_id: str, before: list[str]) -> None:
    version = "24.04" if os_id == "ubuntu" else "9.6"
    driver = work(facts(os_id, version), stack(INSTALL)).parts["driver"]
    assert driver["before"] == before
    toolkit = work(facts(os_id, version), stack(), cuda_toolkit="13.0").parts["cuda_toolkit"]
    assert toolkit["before"] == []


def test_amdgpu_has_folders_only_for_some_releases_of_enterprise_linux() -> None:
    """ROCm/amdgpu-docs names them; for a folder that does not exist dnf reports 404."""

    def driver(version_id: str) -> str:
        seen = facts("rhel", version_id, pci_gpus=(MI300X,), nvidia=None, amd=Amd(rocm_version="6.4.1"))
        done = work(seen, stack(None, variant="rocm7.2", rocm=UPGRADE_ROCM)).parts["rocm"]
        uri: str = done["sources"][0]["repository"]["uri"]
        return uri

    assert driver("9.6") == "https://repo.radeon.com/amdgpu/30.30.3/el/9.6/main/x86_64/"
    with pytest.raises(InstallError, match=r"amdgpu has no folder for rhel 9.5, only for 9.4, 9.6, 9.7"):
        driver("9.5")


def test_a_system_without_known_packages_is_named() -> None:
    with pytest.raises(InstallError, match="the catalog has no driver packages for arch") as refused:
        work(facts("arch", ""), stack(INSTALL))
    assert "ubuntu 24.04" in (refused.value.hint or "")
    with pytest.raises(UsageError, match="debian 11"):
        package_system("debian", "11")
    with pytest.raises(UsageError, match="the catalog has no repository with amdgpu for debian 12"):
        repository_of_component("amdgpu", os_id="debian", version_id="12", machine="x86_64", mirror=None, key=None)


def test_the_work_is_described_in_words() -> None:
    done = work(facts(), stack(INSTALL, fabric_manager=NEW), cuda_toolkit="13.0", container_toolkit=True)
    assert done.named() == (
        f"NVIDIA driver {NEW} (open kernel modules), fabric manager {NEW}, CUDA toolkit 13.0, NVIDIA container toolkit"
    )


def test_the_older_rpm_name_of_the_fabric_manager_is_known() -> None:
    old = DriverPlan(action="keep", version="570.195.03", module="open")
    found = work(facts("rocky", "9.5"), stack(old, fabric_manager="570.195.03")).parts["fabric_manager"]
    assert "nvidia-fabric-manager" in found["packages"][0].split("|")
