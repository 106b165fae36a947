"""Wheels of another platform than planned are refused by name; by their versions, the next build is used."""

from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.core.models.stack import Stack
from provision.core.models.staged import Staged
from provision.phases.stage.stack_lock import named_platform, platform_inside
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import TAG, locked, make_stack, stage_best

pytestmark = pytest.mark.slow

CUDA = {
    "torch/version.py": "from typing import Optional\n\n__all__ = ['cuda']\n__version__ = '2.7.0+cu130'\n"
    "cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
}
CPU = {"torch/version.py": "__version__ = '2.7.0'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"}
ROCM = {"torch/version.py": "__version__ = '2.7.0'\ncuda: Optional[str] = None\nhip: Optional[str] = '7.0.51831'\n"}


@pytest.fixture
def links(tmp_path: Path) -> Path:
    folder = tmp_path / "links"
    folder.mkdir()
    return folder


@pytest.fixture
def index(site: Site, bare_client: Path, links: Path) -> Site:
    """vLLM, torch and its companion for CUDA 13.0 on the user's index; a folder of find-links."""
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\nfind-links = {links}\n")
    site.add_wheel(*make_wheel("vllm", "0.9.1", requires=("torch==2.7.0", "torchvision==0.22.0")))
    site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG, more=CUDA))
    site.add_wheel(*make_wheel("torchvision", "0.22.0", requires=("torch==2.7.0",)))
    return site


def put(folder: Path, name: str, version: str, more: dict[str, str] | None = None, tag: str = TAG) -> str:
    file, content = make_wheel(name, version, tag=tag, more=more, padding=64)
    (folder / file).write_bytes(content)
    return file


@pytest.fixture
def stack() -> Stack:
    """A Stack for CUDA 13.0."""
    plain = make_stack(None, None)
    builds = {part: getattr(plain, part).model_copy(update={"variant": "cu130"}) for part in ("vllm", "torch")}
    return plain.model_copy(update=builds)


def refused(staged: Staged, file: str, built_for: str) -> bool:
    return any(
        f"`{file}` from " in note and f"is built for {built_for}, not for cu130" in note for note in staged.notes
    )


@pytest.mark.usefixtures("index")
def test_a_cpu_build_in_a_find_links_folder_is_refused_and_the_indexs_build_is_used(
    stack: Stack, store: Store, links: Path
) -> None:
    clean = stage_best(Store(store.root / "other", limit_bytes=1 << 40), stack)
    files = [put(links, "torch", "2.7.0+cpu"), put(links, "torchvision", "0.22.0+cpu")]
    staged = stage_best(store, stack)
    assert Path(staged.lock).read_text() == Path(clean.lock).read_text()
    assert all(refused(staged, file, "cpu") for file in files)


def test_a_cpu_build_in_an_index_is_refused(index: Site, stack: Stack, store: Store) -> None:
    file, content = make_wheel("torch", "2.7.0+cpu", tag=TAG)
    index.add_wheel(file, content)
    staged = stage_best(store, stack)
    assert "torch==2.7.0" in locked(staged)
    assert refused(staged, file, "cpu")
    assert stage_best(store, stack).from_cache


@pytest.mark.usefixtures("index")
def test_a_build_whose_content_names_another_platform_is_refused(stack: Stack, store: Store, links: Path) -> None:
    file = put(links, "torch", "2.7.0", ROCM)
    with pytest.raises(StageError) as caught:
        stage_best(store, stack)
    assert f"`{file}` from {links.as_uri()} is built for rocm7.0, not for cu130" in caught.value.text


def test_the_file_is_named_if_no_source_has_the_planned_build(
    index: Site, stack: Stack, store: Store, links: Path
) -> None:
    index.content["/simple/torch/"] = b""
    file = put(links, "torch", "2.7.0+cpu")
    with pytest.raises(StageError) as caught:
        stage_best(store, stack)
    assert f"`{file}` from {links.as_uri()} is built for cpu, not for cu130" in caught.value.text


def test_a_vllm_for_amd_cards_is_detected_by_its_files(index: Site, stack: Stack, store: Store) -> None:
    index.content["/simple/vllm/"] = b""
    more = {"vllm/_version.py": "__version__ = version = '0.9.1'\n", "vllm/_rocm_C.abi3.so": ""}
    file, content = make_wheel("vllm", "0.9.1", requires=("torch==2.7.0",), more=more)
    index.add_wheel(file, content)
    with pytest.raises(StageError, match=r"is built for rocm, not for cu130"):
        stage_best(store, stack)


@pytest.mark.parametrize(
    ("version", "platform"),
    [
        ("2.13.0+cpu", "cpu"),
        ("2.13.0+cu130", "cu130"),
        ("2.9.0+rocm7.0", "rocm7.0"),
        ("0.18.0+rocm700", "rocm700"),
        ("2.8.0+cu128.pypi", "cu128"),
        ("2.13.0", None),
        ("0.9.1+precompiled", None),
        ("1.0+custom", None),
    ],
)
def test_a_version_names_its_platform_or_none(version: str, platform: str | None) -> None:
    assert named_platform(version) == platform


@pytest.mark.parametrize(
    ("files", "platform"),
    [
        (CUDA, "cu130"),
        (CPU, "cpu"),
        (ROCM, "rocm7.0"),
        ({"torchvision/version.py": "__version__ = '0.28.0+cu130'\ngit_version = 'ab'\n"}, "cu130"),
        ({"torchvision/version.py": "__version__ = '0.28.0'\n"}, None),
        ({"vllm/_version.py": "__version__ = '0.9.1'\n", "vllm/_C_AVX512.abi3.so": ""}, "cpu"),
        ({"vllm/_version.py": "__version__ = version = '0.9.1'\n", "vllm/_rocm_C.abi3.so": ""}, "rocm"),
        ({"vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so": ""}, "cu"),
        ({}, None),
    ],
)
def test_the_content_of_a_wheel_names_its_platform_or_none(
    tmp_path: Path, files: dict[str, str], platform: str | None
) -> None:
    name, content = make_wheel("tiny", more=files)
    (tmp_path / name).write_bytes(content)
    assert platform_inside(tmp_path / name) == platform
