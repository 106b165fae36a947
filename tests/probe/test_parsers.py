"""Values and spellings that not all recorded outputs contain."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.phases.probe.assemble import parse
from provision.phases.probe.parsers import amd, drift, hardware, nvidia, product, system
from provision.phases.probe.parsers.values import integer, pci_address, size, version
from provision.phases.probe.sections import Output, Section, split


def section(text: str, status: int = 0, reason: str = "") -> Section:
    return Section(name="s", text=text, status=status, reason=reason)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("glibc 2.36", ("glibc", "2.36")),
        ("ldd (Ubuntu GLIBC 2.35-0ubuntu3.8) 2.35\nCopyright (C) 2022", ("glibc", "2.35")),
        ("ldd (GNU libc) 2.34", ("glibc", "2.34")),
        ("musl libc (aarch64)\nVersion 1.2.5\nDynamic Program Loader", ("musl", "1.2.5")),
        ("", (None, None)),
    ],
)
def test_the_c_library_is_read(text: str, expected: tuple[str | None, str | None]) -> None:
    assert system.libc(section(text)) == expected


def test_quotes_in_os_release_are_read() -> None:
    text = 'ID=\'rocky\'\nNAME="A \\"B\\" \\$C"\nVERSION_ID=9\n# ID=no\nBAD LINE\n'
    assert system.os_release(section(text)) == {"ID": "rocky", "NAME": 'A "B" $C', "VERSION_ID": "9"}


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("sse4_2", "sse4_2"),
        ("sse4_2 avx2 avx512f", "avx2"),
        ("avx2 avx512f avx512bw avx512vl avx512dq", "avx512"),
        ("avx2 avx512f avx512bw avx512vl avx512dq amx_tile", "avx512"),
        ("avx2 avx512f avx512bw avx512vl avx512dq amx_tile amx_bf16", "amx"),
        ("fp asimd sve", "neon"),
        ("fpu sse2", "none"),
        ("", None),
    ],
)
def test_the_instruction_set_is_read(flags: str, level: str | None) -> None:
    assert hardware.isa_level(frozenset(flags.split())) == level


@pytest.mark.parametrize(
    ("text", "count"), [("0", 1), ("0-63", 64), ("0-3,8-11,15", 9), ("", None), ("3-1", None), ("0-", None)]
)
def test_lists_of_cpus_are_read(text: str, count: int | None) -> None:
    assert hardware.count_range(text) == count


@pytest.mark.parametrize(
    ("target", "name"),
    [(90402, "gfx942"), (90010, "gfx90a"), (110000, "gfx1100"), (90006, "gfx906"), (120001, "gfx1201"), (0, None)],
)
def test_architectures_of_amd_cards_are_read(target: int, name: str | None) -> None:
    assert amd.gfx_name(target) == name


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:3B:00.0", "0000:3b:00.0"),
        ("01:00.1", "0000:01:00.1"),
        ("00010000:00:1F.7", "10000:00:1f.7"),
        ("0:0:0.0", None),
        ("", None),
    ],
)
def test_pci_addresses_are_normalised(text: str, address: str | None) -> None:
    assert pci_address(text) == address


@given(st.integers(0, 1 << 62))
def test_numbers_are_read_as_written(number: int) -> None:
    assert integer(f" {number}\n") == number
    assert integer(f"-{number}") is None


@given(
    st.integers(0, 10**12),
    st.sampled_from([("MiB", 1 << 20), ("MB", 1 << 20), ("KiB", 1 << 10), ("GB", 1 << 30), ("B", 1)]),
)
def test_sizes_are_read(number: int, unit: tuple[str, int]) -> None:
    assert size(f"{number} {unit[0]}") == number * unit[1]


@pytest.mark.parametrize("text", ["N/A", "", "12", "12 TB", "-1 MiB", "1.5 MiB"])
def test_an_invalid_size_is_unknown(text: str) -> None:
    assert size(text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [("gcc (Debian 12.2.0-14) 12.2.0", "12.2.0"), ("V12.4.131", None), ("ninja", None), ("1.11.1", "1.11.1")],
)
def test_versions_are_read(text: str, found: str | None) -> None:
    assert version(text) == found


def test_established_connections_are_no_listeners() -> None:
    output = Output(nonce="0", sections={"ports": section("ESTAB 0 0 127.0.0.1:22 127.0.0.1:4000")}, outcome="ALL")
    assert system.ports(output, {}) == ()


@pytest.mark.parametrize(
    ("limits", "total", "expected"),
    [
        (("max", "max"), 1 << 34, None),
        (("9223372036854771712",), 1 << 34, None),
        (("9223372036854771712",), None, None),
        (("max", str(1 << 30), str(1 << 31)), 1 << 34, 1 << 30),
        ((str(1 << 35),), 1 << 34, None),
    ],
)
def test_the_limit_of_the_cgroup_is_read(limits: tuple[str, ...], total: int | None, expected: int | None) -> None:
    text = "\n".join(f"/sys/fs/cgroup/{level}/memory.max:{limit}" for level, limit in enumerate(limits))
    assert hardware.cgroup_limit(section(text), total) == expected


def test_full_disk_has_nothing_free() -> None:
    text = (
        "path=/\nFilesystem     1024-blocks      Used Available Capacity Mounted on\n/dev/sda1 1000 1010 -10 100% /\n"
    )
    (disk,) = hardware.disks(section(text), {})
    assert (disk.total, disk.free, disk.mount) == (1000 << 10, 0, "/")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("file=/.dockerenv", "docker"),
        ("systemd_container=systemd-nspawn\nfile=/.dockerenv", "systemd-nspawn"),
        ("systemd_container=docker\nfile=/var/run/secrets/kubernetes.io", "kubernetes"),
        ("systemd_container=wsl", None),
        ("container_variable=oci", "oci"),
        ("file=/run/.containerenv", "podman"),
        ("cgroup=12:memory:/kubepods/burstable/pod1/0a", "kubernetes"),
        ("cgroup=0::/init.scope", None),
    ],
)
def test_a_container_is_detected(text: str, kind: str | None) -> None:
    assert system.container(section(text), {}) == kind


@pytest.mark.parametrize(
    ("text", "flags", "kind"),
    [
        ("sys_vendor=QEMU\nproduct_name=Standard PC\nclocks=tsc kvm-clock", ("fpu", "hypervisor"), "kvm"),
        ("sys_vendor=QEMU\nproduct_name=Standard PC\nclocks=tsc", ("fpu", "hypervisor"), "qemu"),
        ("sys_vendor=Red Hat\nproduct_name=OpenStack Compute", ("fpu", "hypervisor"), "kvm"),
        ("sys_vendor=Amazon EC2\nproduct_name=p5.48xlarge\nclocks=tsc kvm-clock", ("fpu", "hypervisor"), "amazon"),
        ("sys_vendor=Amazon EC2\nproduct_name=g5g.metal\nclocks=arch_sys_counter", ("fp", "asimd"), None),
        ("sys_vendor=Amazon EC2\nproduct_name=g5g.xlarge\nclocks=arch_sys_counter", ("fp", "asimd"), "amazon"),
        ("sys_vendor=Google\nproduct_name=Google Compute Engine\nclocks=tsc hpet", ("fpu",), None),
        ("hypervisor=xen\nxen_rights=control_d", ("fpu", "hypervisor"), None),
        ("sys_vendor=VMware, Inc.\nclocks=tsc", ("hypervisor",), "vmware"),
        ("hypervisor=xen", (), "xen"),
        ("clocks=hyperv_clocksource_tsc_page acpi_pm", ("hypervisor",), "microsoft"),
        ("clocks=tsc hpet", ("hypervisor",), "vm-other"),
        ("sys_vendor=Dell Inc.\nclocks=tsc hpet acpi_pm", ("sse4_2",), None),
    ],
)
def test_virtual_machines_are_told_also_from_inside_a_container(
    text: str, flags: tuple[str, ...], kind: str | None
) -> None:
    assert system.virtualization(section(text), flags) == kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("efivar=   6   0   0   0   1", True),
        ("efivar= 22 0 0 0 0", False),
        ("firmware=other", False),
        ("", None),
    ],
)
def test_secure_boot_is_read(text: str, expected: bool | None) -> None:
    output = split(f"@@0 start\n@@0 begin secure_boot\n{text}\n\n@@0 end secure_boot 0 \n@@0 over ALL\n")
    unknown: dict[str, str] = {}
    assert system.secure_boot(output, unknown) is expected
    assert ("secure_boot" in unknown) == (expected is None)


def test_changed_files_in_the_format_of_busybox_are_read() -> None:
    text = "sha256sum: can't open '/p/a': No such file or directory\n/p/a: FAILED\n/p/b: OK\n/p/c: FAILED\nsha256sum: can't open '/p/d': Permission denied\n/p/d: FAILED"
    found = drift.sums(text.split("\n"))
    assert found == {"/p/a": drift.GONE, "/p/b": "OK", "/p/c": drift.CHANGED, "/p/d": drift.FORBIDDEN}


def test_errors_on_the_standard_output_of_a_tool_are_quoted() -> None:
    text = "@@0 start\n@@0 begin pci\n/sys/bus/pci/devices/0000:03:00.0/vendor:0x1002\n/sys/bus/pci/devices/0000:03:00.0/device:0x744c\n"
    text += "/sys/bus/pci/devices/0000:03:00.0/class:0x030000\n\n@@0 end pci 0 \n@@0 begin rocminfo_agents\n"
    text += "Unable to open /dev/kfd read-write: Permission denied\n\n@@0 end rocminfo_agents 1 \n@@0 over ALL\n"
    facts = parse("host", text)
    assert facts.amd is not None
    assert facts.amd.gpus == ()
    assert facts.unknown["amd.rocminfo"] == "Unable to open /dev/kfd read-write: Permission denied"


def test_toolkits_are_read_with_compatibility_libraries_and_what_they_lack_to_compile_kernels_at_run_time() -> None:
    text = (
        "toolkit=/usr/local/cuda-13.0\nCuda compilation tools, release 13.0, V13.0.88\nlacks=include/curand_kernel.h\n"
        "compat=/usr/local/cuda-13.0/compat/libcuda.so.1\n"
        'toolkit=/usr/local/cuda-12.9\n   "cuda" : {\n      "version" : "12.9.1"\nlacks=bin/nvcc\nlacks=include/curand_kernel.h\n'
        "toolkit=/usr/local/cuda-12.8\ncompat=/usr/local/cuda-12.8/compat/libcuda.so.1\n"
    )
    found = system.cuda_toolkits(section(text), (), {})
    assert [(kit.path[-4:], kit.version, kit.compat, kit.lacks) for kit in found] == [
        ("13.0", "13.0.88", True, ("include/curand_kernel.h",)),
        ("12.9", "12.9.1", False, ("bin/nvcc", "include/curand_kernel.h")),
        ("12.8", None, True, ()),
    ]


def test_partitions_of_an_amd_card_have_its_address_whatever_numbers_them() -> None:
    """The function counted them; newer drivers count in the bits above the bus."""
    rows = "/sys/class/kfd/kfd/topology/nodes/{0}/properties:simd_count 80\n/sys/class/kfd/kfd/topology/nodes/{0}/properties:location_id {1}\n"
    found = amd.topology(section("".join(rows.format(*each) for each in ((2, 0x0A00), (3, 0x0A01), (4, 0x30000A00)))))
    assert [gpu.pci_address for gpu in found] == ["0000:0a:00.0", "0000:0a:00.1", "0000:0a:00.0"]


@pytest.mark.parametrize(
    ("content", "expected"), [('{"check": "devices.ecc"}', {"check": "devices.ecc"}), ("no JSON", {}), (None, None)]
)
def test_the_mark_of_a_quarantined_host_is_read(content: str | None, expected: dict[str, str] | None) -> None:
    file = "" if content is None else f"@@n file quarantine.json\n{content}\n@@n file\n"
    text = (
        "@@n start\n@@n begin system\nprefix=/p\n@@n end system 0 \n"
        f"@@n begin installed\n{file}@@n end installed 0 \n@@n over ALL\n"
    )
    installed = parse("h", text).installed
    assert installed is not None
    assert installed.quarantine == expected


def test_the_serial_number_of_a_board_is_read() -> None:
    document = (
        "<nvidia_smi_log><gpu><serial>1652522001234</serial></gpu><gpu><serial>N/A</serial></gpu></nvidia_smi_log>"
    )
    said, _ = nvidia.answer(section(document), section(""))
    assert [gpu.serial for gpu in said.gpus] == ["1652522001234", None]


def test_the_newest_rocm_is_the_one_with_the_highest_numbers() -> None:
    text = "/opt/rocm-9.9.1/.info/version:9.9.1-3\n/opt/rocm-11.0.0/.info/version:11.0.0-8\n"
    assert amd.rocm_version(section(text)) == "11.0.0"


def test_the_memory_of_a_slice_is_read() -> None:
    sizes = "<mig_device><fb_memory_usage><total>9856 MiB</total></fb_memory_usage></mig_device>"
    gpu = f"<gpu><mig_mode><current_mig>Enabled</current_mig></mig_mode><mig_devices>{sizes}</mig_devices></gpu>"
    text = f"<nvidia_smi_log>{gpu}</nvidia_smi_log>"
    said, _ = nvidia.answer(section(text), section(""))
    (found,) = said.gpus
    assert (found.mig_devices, found.mig_memory) == (1, 9856 << 20)


MANAGERS = """manager=systemd
LoadState=loaded
ActiveState=active
MainPID=4711
EnvironmentFiles=/opt/firstlight/etc/service.env (ignore_errors=no)
manager=systemd-user
LoadState=loaded
ActiveState=failed
MainPID=0
EnvironmentFiles=/home/ada/own.env (ignore_errors=yes)
EnvironmentFiles=/home/ada/.local/share/firstlight/etc/service.env (ignore_errors=no)
"""


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        (MANAGERS, "/home/ada/.local/share/firstlight", ("systemd-user", "failed", None)),
        (MANAGERS, "/opt/firstlight", ("systemd", "active", 4711)),
        (MANAGERS, "/srv/firstlight", (None, None, None)),
        (f"{MANAGERS}supervisord_config=/srv/x\n", "/srv/firstlight", ("supervisor", "inactive", None)),
        (re.sub("EnvironmentFiles=.*\n", "", MANAGERS), "/srv/firstlight", ("systemd", "active", 4711)),
    ],
)
def test_a_unit_of_another_installation_is_not_ours(
    text: str, prefix: str, expected: tuple[str | None, str | None, int | None]
) -> None:
    found = product._service(section(text), prefix)
    assert (found.supervisor, found.state, found.pid) == expected
