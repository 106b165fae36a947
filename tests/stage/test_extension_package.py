"""The separately installed package of a Stack, supplied by a provider."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provision.catalog.index.project_page import IndexSources
from provision.core.errors import StageError, TransportError
from provision.core.models.settings import Settings
from provision.core.models.stack import FlashAttnKey, FlashAttnPackage, FlashAttnPlan, Stack
from provision.phases.stage.download import Progress
from provision.phases.stage.solve import LockedWheel
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import PYTHON, locked, make_stack, stage_best

KEY = FlashAttnKey(
    cuda_major=12, rocm=None, torch="2.7", cxx11_abi=True, python=PYTHON, machine="x86_64", glibc="2.28", capabilities=("9.0",)
)  # fmt: skip


@dataclass
class Provider:
    """Provides a small wheel, or fails."""

    store: Store
    folder: Path
    error: Exception | None = None
    asked: list[list[str]] = field(default_factory=list)

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        return ["tiny-dependency"]

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[LockedWheel],
        sources: IndexSources,
        progress: Progress | None,
    ) -> LockedWheel:
        self.asked.append([wheel.distribution for wheel in wheels])
        if self.error:
            raise self.error
        name, content = make_wheel("flash-attn", package.version)
        self.folder.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(content)
        path = self.store.add(self.folder / name)
        return LockedWheel("flash-attn", package.version, name, path.parent.name, "", len(content))


@pytest.fixture
def stack(site: Site, bare_client: Path) -> Stack:
    """A Stack of torch and the package."""
    bare_client.write_text(f"[global]\nindex-url = {site.url}/simple\n")
    site.add_wheel(*make_wheel("torch", "2.7.0"))
    site.add_wheel(*make_wheel("tiny-dependency", "1.1"))
    package = FlashAttnPackage(version="2.8.3", source="built", file="flash_attn.whl", key=KEY, builder="controller")
    plain = make_stack(None, None)
    return plain.model_copy(
        update={
            "vllm": None,
            "torch": plain.torch.model_copy(update={"variant": "cu126"}),
            "flash_attn": FlashAttnPlan(provider="built", version="2.8.3", source="flash_attn.whl", package=package),
        }
    )


@pytest.fixture
def provider(store: Store, tmp_path: Path) -> Provider:
    return Provider(store, tmp_path / "builder")


def test_the_package_is_locked_with_its_dependencies(stack: Stack, store: Store, provider: Provider) -> None:
    staged = stage_best(store, stack, packager=provider)
    assert locked(staged) == ["flash-attn==2.8.3", "tiny-dependency==1.1", "torch==2.7.0"]
    assert staged.stack == stack
    assert sorted(provider.asked[0]) == ["tiny-dependency", "torch"]


def test_a_second_run_queries_no_provider(stack: Stack, store: Store, provider: Provider) -> None:
    first, second = (stage_best(store, stack, packager=provider) for _ in range(2))
    assert second.from_cache
    assert second.environment == first.environment
    assert len(provider.asked) == 1


def test_a_missing_wheel_is_provided_again(stack: Stack, store: Store, provider: Provider) -> None:
    first = stage_best(store, stack, packager=provider)
    next(Path(file.path) for file in first.files if file.name.startswith("flash_attn")).unlink()
    second = stage_best(store, stack, packager=provider)
    assert len(provider.asked) == 2
    assert all(Path(file.path).is_file() for file in second.files)


@pytest.mark.parametrize("error", [StageError("nvcc failed"), TransportError("the builder is away")])
def test_an_optional_package_is_omitted_with_the_reason(
    stack: Stack, store: Store, provider: Provider, error: Exception
) -> None:
    provider.error = error
    staged = stage_best(store, stack, packager=provider)
    assert "flash-attn==2.8.3" not in locked(staged)
    assert staged.stack.flash_attn == FlashAttnPlan(provider="none")
    assert staged.notes == (f"flash-attn 2.8.3 was left out: {error}; --refresh tries again",)
    again = stage_best(store, stack, packager=provider)
    assert (again.from_cache, again.stack, again.notes) == (True, staged.stack, staged.notes)


@pytest.mark.parametrize("policy", ["package", "both", "==2.8.3"])
def test_a_requested_package_that_cannot_be_provided_is_a_refusal(
    stack: Stack, store: Store, provider: Provider, policy: str
) -> None:
    provider.error = StageError("nvcc failed")
    required = Settings(flash_attn=policy)
    without = stack.model_copy(update={"flash_attn": FlashAttnPlan(provider="none")})
    staged = stage_best(store, stack, without, settings=required, packager=provider)
    assert staged.stack == without
    assert [(reason.candidate, reason.text) for reason in staged.refused] == [("candidate-1", "nvcc failed")]
    with pytest.raises(StageError, match=re.escape("candidate-1: nvcc failed")):
        stage_best(store, stack, settings=required, packager=provider, refresh=True)


def test_a_lock_without_the_package_is_not_used_where_the_package_is_required(
    stack: Stack, store: Store, provider: Provider
) -> None:
    provider.error = StageError("nvcc failed")
    assert stage_best(store, stack, packager=provider).stack.flash_attn.package is None
    with pytest.raises(StageError, match=re.escape("candidate-1: nvcc failed")):
        stage_best(store, stack, settings=Settings(flash_attn="package"), packager=provider)
    assert stage_best(store, stack, packager=provider).from_cache


def test_a_refusal_for_want_of_the_package_is_not_used_where_the_package_is_optional(
    stack: Stack, store: Store, provider: Provider
) -> None:
    provider.error = StageError("nvcc failed")
    without = stack.model_copy(update={"flash_attn": FlashAttnPlan(provider="none")})
    required = stage_best(store, stack, without, settings=Settings(flash_attn="package"), packager=provider)
    assert [reason.candidate for reason in required.refused] == ["candidate-1"]
    optional = stage_best(store, stack, without, packager=provider)
    assert optional.refused == ()
    assert optional.notes == ("flash-attn 2.8.3 was left out: nvcc failed; --refresh tries again",)
