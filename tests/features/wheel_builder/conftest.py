import platform
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import ClientSettings, read_settings
from provision.core.models.inventory import Connection
from provision.core.models.settings import Settings
from provision.core.models.stack import AttentionPlan, FlashAttnPackage, FlashAttnPlan, Stack, TorchBuild
from provision.core.models.staged import Staged, StagedFile
from provision.features.wheel_builder.build import BuildCache, BuildJob, BuiltWheel
from provision.features.wheel_builder.build_host import BuildHost
from provision.features.wheel_builder.recipes import BuildKey
from provision.features.wheel_builder.wheel_builder import CONTROLLER, WheelBuilder
from provision.fleet.ssh.local import LocalSession
from provision.fleet.ssh.session import Session
from provision.phases.stage import stage
from provision.phases.stage.download import Progress
from provision.phases.stage.solve import LockedWheel, Target
from provision.phases.stage.stack_lock import fetch_wheels, lock_stack
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.keys import make_key
from tests.stage.conftest import site as address
from tests.stage.conftest import store
from tests.stage.stacks import FACTS, PYTHON, make_stack, resolve_to
from tests.verify.torch_environment import VENDOR_INDEX

__all__ = ["address", "store"]

SAMPLE = Path(__file__).parent / "sample"
TORCH = "2.13.0"
CUDA = "13.0"
GLIBC = platform.libc_ver()[1]


@dataclass
class Site:
    """A build for a Stack that is staged: its inputs, and the progress that it reported."""

    wheel_builder: WheelBuilder
    job: BuildJob
    reported: list[str]
    interrupted: list[str]
    """Its progress before it was cancelled."""
    left_running: list[str]
    """Command lines of its processes right after the cancellation."""
    built: BuiltWheel
    stack: Stack
    staged: Staged
    client: ClientSettings


def sample_key(**changes: Any) -> BuildKey:
    values: dict[str, Any] = {
        "cuda_major": 13,
        "torch": "2.13",
        "python": PYTHON,
        "machine": platform.machine(),
        "glibc": GLIBC,
        "capabilities": ("9.0",),
    }
    return make_key(**(values | changes))


@pytest.fixture(scope="package")
def uv_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """uv's cache of these tests. uv unpacks a local torch to read its metadata: 700 MB that are not needed again."""
    folder = tmp_path_factory.mktemp("uv-cache")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def own_uv_cache(uv_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(uv_cache))


class BuilderForCuda(WheelBuilder):
    """A CUDA torch would be gigabytes; its CPU build has the same headers and symbols, and is locked in its place."""

    jobs: ClassVar[list[BuildJob]] = []

    def provide(self, stack: Stack, *arguments: Any) -> LockedWheel:
        torch = stack.torch.model_copy(update={"variant": f"cu{CUDA.replace('.', '')}"})
        return super().provide(stack.model_copy(update={"torch": torch}), *arguments)

    def find_or_build(self, job: BuildJob, builder: str) -> BuiltWheel:
        self.jobs.append(job)
        return super().find_or_build(job, builder)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The sample under flash-attn's name, staged and built with nvcc from wheels: cancelled after its first unit, then resumed."""
    folder = tmp_path_factory.mktemp("wheel-builder")
    # Files come from the user's own wheelhouse where the suite has one; what is built here stays here.
    store = Store(folder / "cache", limit_bytes=1 << 40)
    with pytest.MonkeyPatch.context() as patch:
        set_facts(patch, cuda_home=None)
        # Not for all later tests of this process: those on hosts pass uv's variables to them.
        with pytest.MonkeyPatch.context() as for_uv:
            for_uv.setenv("UV_CACHE_DIR", str(folder / "uv"))
            made = _stage(folder, store)
        # The interrupted build and the resumed one each left an unpacked torch.
        shutil.rmtree(folder / "uv")
        yield made
    shutil.rmtree(folder)


def _stage(folder: Path, store: Store) -> Site:
    links = folder / "links"
    links.mkdir()
    _pack_as_flash_attn(links)
    settings = read_settings()
    own = replace(settings, find_links=(*settings.find_links, str(links), str(_torch(store, settings).parent)))
    key = sample_key()
    package = FlashAttnPackage(
        version=key.version, source="built", file="flash_attn-2.8.3.whl", key=key.built_for, builder=CONTROLLER
    )
    stack = _stack(FlashAttnPlan(provider="built", version=key.version, source=package.file, package=package))
    builder = BuilderForCuda(store, open_local, interpreter=no_interpreter)

    def staged(progress: Progress) -> Staged:
        chosen = Settings(flash_attn="package", builder=CONTROLLER)
        return stage(resolve_to(stack), chosen, FACTS, store=store, client=own, packager=builder, progress=progress)

    reported: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        staged(until_the_first_unit(reported))
    interrupted, left = list(reported), processes_below(store.root)
    reported.clear()
    whole = staged(lambda what, _done, _total: reported.append(what))
    [built] = BuildCache(store)
    return Site(builder, builder.jobs[-1], reported, interrupted, left, built, stack, whole, own)


def _stack(flash_attn: FlashAttnPlan, torch_index: str | None = None) -> Stack:
    """Return a Stack without vLLM for the Python of this machine."""
    return make_stack(None, None).model_copy(
        update={
            "vllm": None,
            "torch": TorchBuild(version=TORCH, variant="cpu", index=torch_index),
            "flash_attn": flash_attn,
            "attention": AttentionPlan(backend="NO_ATTENTION"),
        }
    )


def _torch(store: Store, settings: ClientSettings) -> Path:
    """Fetch the torch of the vendor's index, which the controller has from then on; return its path."""
    sources = find_sources(settings)
    wheels = lock_stack(_stack(FlashAttnPlan(provider="none"), VENDOR_INDEX), sources, store).wheels
    fetch_wheels(wheels, sources, store)
    torch = next(wheel for wheel in wheels if wheel.distribution == "torch")
    return store.path(torch.sha256, torch.name)


def _pack_as_flash_attn(folder: Path) -> None:
    """Pack the sample so that it gets its architectures as flash-attn does."""
    source = folder / "flash_attn-2.8.3"
    shutil.copytree(SAMPLE, source)
    project, setup = source / "pyproject.toml", source / "setup.py"
    named = project.read_text().replace('"sample-extension"', '"flash-attn"').replace('"1.2.0"', '"2.8.3"')
    project.write_text(named)
    archs = 'os.environ["TORCH_CUDA_ARCH_LIST"] = f"{int(os.environ[\'FLASH_ATTN_CUDA_ARCHS\']) / 10}"\n'
    setup.write_text(setup.read_text().replace("\nsetup(", f"\n{archs}\nsetup(", 1))
    with tarfile.open(folder / "flash_attn-2.8.3.tar.gz", "w:gz") as packed:
        packed.add(source, source.name)
    shutil.rmtree(source)


def set_facts(patch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let build hosts have other facts than this machine has."""
    read = BuildHost.read_facts
    patch.setattr(BuildHost, "read_facts", lambda *asked: read(*asked).model_copy(update=changes))


def until_the_first_unit(reported: list[str]) -> Progress:
    def tell(what: str, done: int, total: int) -> None:
        reported.append(what)
        if "1 of 3 units" in what:
            raise KeyboardInterrupt

    return tell


def open_local(name: str) -> Session:
    assert name == CONTROLLER
    return LocalSession(name, Connection(kind="local"))


def nobody(name: str) -> Session:
    raise AssertionError(f"builder {name} is not needed")


def no_interpreter(target: Target) -> StagedFile:
    raise AssertionError(f"this machine has a Python {target.python} with its headers")


def processes_below(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found
