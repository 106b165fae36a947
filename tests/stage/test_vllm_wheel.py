"""A wheel of vLLM that the tables lack: where it is found, what is inferred from it, and the environment that it is locked into."""

import hashlib
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from provision.catalog import catalog
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.explain import render
from provision.phases.plan.policy import GivenWheel, names_wheel
from provision.phases.plan.what_if import parse_what_if
from provision.phases.stage.vllm_wheel import WheelReader
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import TAG as PYTHON_TAG
from tests.stage.stacks import locked, make_stack, stage_best
from tests.stage.vllm_wheels import VERSION, compiled, cpu_wheel, cuda_wheel, wheel

H100 = "gpu=H100x1 driver=580.178.04 os=ubuntu-24.04 python=3.12 arch=x86_64 glibc=2.39 ram=64 disk=200"
CPU = "gpu=none os=ubuntu-24.04 python=3.12 arch=x86_64 cpu={} glibc=2.39 ram=64 disk=200"


def read(store: Store, setting: object, line: str = H100, **options: Any) -> GivenWheel:
    settings = Settings.model_validate({"vllm": str(setting)})
    found = WheelReader(store, **({"client": ClientSettings()} | options)).read(parse_what_if(line), settings)
    assert found is not None
    return found


def planned(store: Store, path: Path, line: str) -> Any:
    facts, settings = parse_what_if(line), Settings.model_validate({"vllm": str(path)})
    given = read(store, path, line)
    return choose_stacks({facts.host: facts}, {facts.host: settings}, wheels={facts.host: given})


@pytest.mark.parametrize(
    ("vllm", "expected"),
    [
        ("latest", False),
        ("==0.32.0", False),
        ("==99.0", False),
        (">=0.30.0", False),
        ("==0.33.1.dev5", True),
        ("==0.33.1rc2", True),
        ("==0.33.0+cu129", True),
        ("vllm-0.33.1.whl", True),
        ("https://wheels.example/nightly", True),
    ],
)
def test_a_wheel_is_what_the_tables_cannot_name(vllm: str, expected: bool) -> None:
    assert names_wheel(vllm) is expected
    assert Settings.model_validate({"vllm": vllm.removeprefix("==")}).vllm == vllm


@pytest.mark.parametrize("vllm", ["newer", "0.33.x", "==0.33.0+", "ftp://wheels.example/vllm.tar.gz", "https://"])
def test_anything_else_is_refused(vllm: str) -> None:
    with pytest.raises(ValueError, match="vllm"):
        Settings.model_validate({"vllm": vllm})


def test_the_rows_of_a_cuda_build_are_those_of_its_content(store: Store, tmp_path: Path) -> None:
    given = read(store, cuda_wheel(tmp_path))
    row, build = given.release, given.build
    assert (row.version, row.torch, row.cuda, row.python) == ("0.33.1.dev5", "2.14.0", "13.0", "<3.15,>=3.11")
    assert (row.glibc, row.machines, row.flashinfer) == ("2.28", ("x86_64",), "0.7.2.post1")
    assert (row.core, row.fa2, row.fa3) == (("80", "90", "p90"), (), ("90",))
    assert (build.variant, build.distribution, build.provider, build.python_only) == ("cu130", "vllm", "official", None)
    assert row.inferred
    assert build.inferred
    assert (given.file.version, given.file.url) == (VERSION, "")


def test_a_build_for_one_python_and_another_cuda_says_so(store: Store, tmp_path: Path) -> None:
    main = compiled(tmp_path, linked="libcudart.so.12")
    path = wheel(
        tmp_path,
        files={"vllm/_C.abi3.so": main, "vllm/envs.py": b'VLLM_MAIN_CUDA_VERSION: str = "13.0"\n'},
        version="0.33.1.dev5+g1a2b3c4d5.cu129",
        tag="cp312-cp312-manylinux_2_34_x86_64",
    )
    given = read(store, path)
    assert (given.build.variant, given.build.python_only, given.build.glibc) == ("cu129", "3.12", "2.34")


@pytest.mark.parametrize(
    ("members", "needed"), [(("_C", "_C_AVX2", "_C_AVX512"), "avx2"), (("_C",), "avx512")], ids=["avx2", "avx512"]
)
def test_the_instructions_of_a_cpu_build_follow_from_its_extensions(
    store: Store, tmp_path: Path, members: tuple[str, ...], needed: str
) -> None:
    built = compiled(tmp_path)
    path = cpu_wheel(tmp_path, files={f"vllm/{name}.abi3.so": built for name in members})
    given = read(store, path, CPU.format("avx512"))
    assert (given.build.variant, given.build.isa, given.release.torch) == ("cpu", (needed,), "2.14.0")
    weak = planned(store, path, CPU.format("avx2")).classes[0]
    assert (weak.stack is None) is (needed == "avx512")


def test_the_plan_goes_on_with_the_inferred_rows_and_says_so(store: Store, tmp_path: Path) -> None:
    path = cuda_wheel(tmp_path)
    found = planned(store, path, H100)
    [resolution] = found.classes
    assert resolution.stack.vllm.wheel.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (resolution.stack.vllm.version, resolution.stack.torch.variant) == ("0.33.1.dev5", "cu130")
    assert resolution.stack.attention.generation == 3
    assert render(found, {}).splitlines()[1] == (
        f"  vLLM         0.33.1.dev5 (cu130), {path.name}: inferred from the wheel, not in the tables"
    )
    assert any("untested" in reason.text for reason in resolution.reasons)


def test_a_card_without_code_is_refused(store: Store, tmp_path: Path) -> None:
    [resolution] = planned(store, cuda_wheel(tmp_path), H100.replace("H100", "T4")).classes
    assert resolution.stack is None
    assert resolution.reasons[0].rule == "gpu-code"
    assert resolution.nearest.policy == {"vllm": "latest"}


def test_a_build_for_another_platform_is_refused_with_both(store: Store, tmp_path: Path) -> None:
    [resolution] = planned(store, cuda_wheel(tmp_path), CPU.format("avx512")).classes
    assert resolution.stack is None
    assert "is built for cu130 with torch 2.14.0, which this host or `--torch` excludes" in resolution.reasons[0].text


def test_a_row_of_the_tables_is_not_taken_for_a_wheel_of_the_same_release(store: Store, tmp_path: Path) -> None:
    """A wheel with the version of a release may have other content."""
    [resolution] = planned(store, cuda_wheel(tmp_path, version="0.33.0"), H100.replace("H100", "T4")).classes
    assert [candidate.accepted for candidate in resolution.candidates] == [False]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "flash-attn"}, "is a wheel of flash-attn, not of vLLM"),
        ({"requires": ("torch>=2.9",)}, "pins no torch release"),
        ({"requires": ("torch==9.9.0",)}, "pins torch 9.9.0, which the catalog does not have"),
        ({"files": {}}, "has no compiled extension"),
        ({"files": {"vllm/_C.abi3.so": b"\x7fELF"}}, "is not a complete shared library"),
    ],
)
def test_a_wheel_that_no_plan_can_use_is_an_error(
    store: Store, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(StageError, match=text) as caught:
        read(store, cuda_wheel(tmp_path, **changes))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"vllm/_rocm_C.abi3.so": b""}, "is built for ROCm"),
        ({"vllm/xpu.so": b""}, "is built for neither CUDA nor CPUs"),
    ],
)
def test_other_platforms_are_named(store: Store, tmp_path: Path, more: dict[str, bytes], text: str) -> None:
    built = compiled(tmp_path)
    with pytest.raises(StageError, match=text):
        read(store, wheel(tmp_path, files=dict.fromkeys(more, built)))


def test_a_file_that_is_absent_renamed_or_damaged_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="there is no such file"):
        read(store, tmp_path / "vllm-1.0-py3-none-any.whl")
    renamed = cuda_wheel(tmp_path).rename(tmp_path / "new.whl")
    with pytest.raises(StageError, match=r"`new\.whl` is not the file name of a wheel"):
        read(store, renamed)
    damaged = tmp_path / "vllm-1.0-cp38-abi3-linux_x86_64.whl"
    damaged.write_bytes(b"PK")
    with pytest.raises(StageError, match="is not a valid wheel"):
        read(store, damaged)


@pytest.fixture
def nightly(site: Site, bare_client: Path, tmp_path: Path) -> str:
    """The address of a wheel, which is also on the user's index with older and foreign ones."""
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    path = cuda_wheel(tmp_path)
    where = site.add_wheel(path.name, path.read_bytes())
    site.content[f"/files/{quote(path.name)}"] = path.read_bytes()
    site.add_wheel(*make_wheel("vllm", "0.33.1.dev4+g0", tag=PYTHON_TAG))
    site.add_wheel(*make_wheel("vllm", "0.33.1.dev9+g9", tag="cp38-abi3-manylinux_2_28_aarch64"))
    site.add_wheel(*make_wheel("vllm", "0.33.1.dev8+g8.cpu", tag="cp38-abi3-manylinux_2_28_x86_64"))
    return f"{site.url}{where}"


def test_an_address_is_fetched_once(site: Site, store: Store, nightly: str) -> None:
    first = read(store, nightly)
    assert first.file.url == nightly
    site.close()
    assert read(store, nightly).file == first.file
    with pytest.raises(StageError, match=r"could not be fetched from 127\.0\.0\.1") as caught:
        read(store, nightly, refresh=True)
    assert "--vllm FILE" in str(caught.value.hint)


def test_an_address_may_name_the_hash(site: Site, store: Store, nightly: str) -> None:
    sha256 = hashlib.sha256(site.content[nightly.removeprefix(site.url)]).hexdigest()
    assert read(store, f"{nightly}#sha256={sha256}").file.sha256 == sha256
    with pytest.raises(StageError, match="has the wrong hash"):
        read(store, f"{nightly}#sha256={'0' * 64}", refresh=True)


def test_an_index_gives_its_newest_wheel_for_the_host(site: Site, store: Store, nightly: str) -> None:
    assert read(store, f"{site.url}/simple").file.version == VERSION
    with pytest.raises(StageError, match=r"none of http://127.0.0.1:\d+/other has vllm as a wheel for x86_64"):
        read(store, f"{site.url}/other")


def test_a_development_version_comes_from_the_users_index(site: Site, store: Store, nightly: str) -> None:
    assert read(store, "==0.33.1.dev5", client=None).file.version == VERSION
    assert read(store, f"=={VERSION}", client=None).file.version == VERSION
    site.close()
    assert read(store, "==0.33.1.dev5", client=None).file.version == VERSION


def test_a_version_that_no_index_has_names_the_indexes(
    site: Site, store: Store, nightly: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog(), "nightlies", ())
    with pytest.raises(StageError, match=r"none of .*/simple has vllm 0\.33\.1\.dev6 as a wheel for x86_64") as caught:
        read(store, "==0.33.1.dev6", client=None)
    assert caught.value.hint == "name the wheel itself: --vllm FILE, or its address"


def test_a_silent_index_is_named_with_another_way(store: Store, silent: str) -> None:
    with pytest.raises(
        StageError, match=r"no index that answers has vllm: 127\.0\.0\.1:\d+ cannot be reached"
    ) as caught:
        read(store, silent)
    assert "--vllm FILE" in str(caught.value.hint)


class Bundle:
    """A bundle by its name."""

    name = "fleet.flb"


def test_a_bundle_has_the_wheel_by_its_name(store: Store, tmp_path: Path) -> None:
    path = cuda_wheel(tmp_path)
    before = read(store, path)
    path.unlink()
    sealed = ClientSettings(bundled=Bundle())  # type: ignore[arg-type]
    elsewhere = tmp_path / "other" / path.name
    assert read(store, elsewhere, client=sealed).file == before.file
    with pytest.raises(StageError, match=r"`fleet\.flb` does not have the wheel"):
        read(store, tmp_path / "vllm-1.0-cp38-abi3-linux_x86_64.whl", client=sealed)


def test_hosts_with_one_wheel_form_one_class(store: Store, tmp_path: Path) -> None:
    path, facts = cuda_wheel(tmp_path), parse_what_if(H100)
    both: dict[str, HostFacts] = {name: facts.model_copy(update={"host": name}) for name in "ab"}
    settings = dict.fromkeys(both, Settings.model_validate({"vllm": str(path)}))
    wheels = WheelReader(store, client=ClientSettings()).read_all(both, settings)
    assert [found.hosts for found in choose_stacks(both, settings, wheels=wheels).classes] == [("a", "b")]


def test_inferred_rows_are_kept(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cuda_wheel(tmp_path)
    first = read(store, path)
    monkeypatch.setattr("provision.phases.stage.vllm_wheel.rows_of", None)
    again = read(store, path)
    assert (asdict(again.release), asdict(again.build)) == (asdict(first.release), asdict(first.build))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel is for x86_64")
def test_the_lock_has_the_wheel_and_further_packages(index: Site, store: Store, tmp_path: Path) -> None:
    path = cpu_wheel(tmp_path, requires=("torch==2.7.0", "tiny-dependency>=1"), tag=PYTHON_TAG)
    file = WheelReader(store, client=ClientSettings())._add(path)
    index.add_wheel(*make_wheel("lmcache", "0.4.2"))
    plain = make_stack(None, f"{index.url}/vendor")
    assert plain.vllm
    vllm = plain.vllm.model_copy(update={"version": "0.33.1.dev5", "wheel": file})
    given = plain.model_copy(update={"vllm": vllm, "packages": ("lmcache==0.4.2",)})
    staged = stage_best(store, given)
    assert locked(staged) == [
        "firstlight-attention==1.0.0", "lmcache==0.4.2", "tiny-dependency==1.1", "torch==2.7.0+cpu", f"vllm=={VERSION}.cpu",
    ]  # fmt: skip
    assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" in Path(staged.lock).read_text()
    assert path.name in {sent.name for sent in staged.files}
    again = stage_best(store, given)
    assert (again.environment, again.from_cache) == (staged.environment, True)
