"""A small CUDA extension in place of flash-attn, built for sm_90 with nvcc from wheels and staged; no GPU is needed."""

import json
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.models.facts import User
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.features.wheel_builder.build import BuildCache
from provision.features.wheel_builder.wheel_check import find_mismatches
from provision.phases.stage import stage
from provision.phases.stage.extension import read_extension
from provision.run.desired_state import desired_state_of
from tests.features.wheel_builder.conftest import GLIBC, Site, nobody, sample_key
from tests.features.wheel_builder.test_command import wheels
from tests.stage.stacks import FACTS, PYTHON, resolve_to

pytestmark = pytest.mark.long("a wheel of CUDA code", seconds=60)


def wheel_of(site: Site) -> Path:
    return site.job.store.folder(site.built.sha256) / site.built.name


def test_a_cancelled_build_leaves_no_process_and_is_resumed(site: Site) -> None:
    assert any("1 of 3 units" in line for line in site.interrupted)
    assert site.left_running == []
    assert not any("creating the build environment" in line for line in site.reported)
    assert not any("1 of 3 units" in line for line in site.reported)
    assert any("2 of 2 units" in line for line in site.reported)


def test_the_wheel_is_cached_under_its_key_with_its_log(site: Site) -> None:
    built = site.built
    assert built.key.slug.startswith(f"flash-attn-2.8.3-cu13-torch2.13-cxx11abi1-cp{PYTHON.replace('.', '')}-")
    assert built.codes == ("90",)
    assert built.nvcc == "13.0"
    assert built.cpu_seconds > 0
    assert [entry.sha256 for entry in BuildCache(site.job.store)] == [built.sha256]
    log = Path(built.log).read_text()
    assert "-gencode=arch=compute_90,code=sm_90" in log
    assert log.count("axpy.cu -o") + log.count("scale.cu -o") + log.count("bind.cpp -o") >= 3


def test_a_build_leaves_only_its_log(site: Site) -> None:
    kept = {path.name for path in (site.job.store.root / "builds" / "work").rglob("*") if path.is_file()}
    assert kept <= {"builder.pyz"}


def test_the_torch_that_it_was_built_against_has_all_its_symbols(site: Site) -> None:
    extension = read_extension(wheel_of(site))
    assert any("torchCheckFail" in symbol for symbol in extension.torch_symbols)
    assert find_mismatches(extension, sample_key(), torch=site.job.torch_path) == []


def test_another_torch_is_refused_by_its_symbols(site: Site, tmp_path: Path) -> None:
    source, library = tmp_path / "c10.cpp", tmp_path / "libc10.so"
    source.write_text("namespace c10::detail { void torchCheckFail(const char*, const char*, unsigned, int) {} }\n")
    subprocess.run(["g++", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    other = tmp_path / "torch-2.9.0-cp312-cp312-linux_x86_64.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.write(library, "torch/lib/libc10.so")
    found = find_mismatches(read_extension(wheel_of(site)), sample_key(), torch=other)
    assert len(found) == 1
    assert "torchCheckFail" in found[0]
    assert "`torch-2.9.0-cp312-cp312-linux_x86_64.whl` lacks" in found[0]


def test_a_wheel_is_listed_as_text_and_as_json(site: Site) -> None:
    cache = site.job.store.root
    assert f"{site.built.key.slug}  " in wheels(cache, "list").stdout
    assert json.loads(wheels(cache, "list", "--json").stdout)[0]["sha256"] == site.built.sha256


def test_the_wheel_needs_no_newer_c_library_than_the_builder_has(site: Site) -> None:
    wanted = read_extension(wheel_of(site)).glibc
    assert wanted is not None
    assert [int(part) for part in wanted.split(".")] <= [int(part) for part in GLIBC.split(".")]


def test_the_package_is_locked_with_the_torch_that_it_was_built_against(site: Site) -> None:
    lock = Path(site.staged.lock).read_text().splitlines()
    assert [line.split()[0] for line in lock if line.startswith(("torch==", "flash-attn=="))] == [
        "flash-attn==2.8.3",
        f"torch=={site.job.torch.version}",
    ]
    assert any(line.startswith(f"torch=={site.job.torch.version} ") and site.job.torch.sha256 in line for line in lock)
    assert site.staged.stack == site.stack
    assert (site.staged.refused, site.staged.notes) == ((), ())
    [package] = [file for file in site.staged.files if file.name.startswith("flash_attn-")]
    assert (package.sha256, Path(package.path).parent.name) == (site.built.sha256, site.built.sha256)


def test_a_host_installs_the_package_last(site: Site) -> None:
    host = Host(name="gpu-1", connection=Connection(kind="local"), settings=Settings(serve=False))
    facts = FACTS.model_copy(update={"user": User(name="root", uid=0, home="/root")})
    environment = desired_state_of(host, facts, site.staged, tools={}).ansible_vars()["firstlight_environment"]
    assert environment["last"] == ["flash-attn"]


def test_the_next_stage_builds_nothing(site: Site) -> None:
    idle = replace(site.wheel_builder, open_builder=nobody)
    settings = Settings(flash_attn="package", builder="controller")
    store = site.job.store
    refreshed = stage(
        resolve_to(site.stack), settings, FACTS, store=store, client=site.client, packager=idle, refresh=True
    )
    assert not refreshed.from_cache
    assert refreshed.environment == site.staged.environment
