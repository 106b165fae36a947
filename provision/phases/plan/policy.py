"""The policy: the settings that rules read, checked for contradictions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, Self, get_args

from packaging.version import Version

from provision.catalog import catalog
from provision.catalog.rows.builds import Build, Release
from provision.core.errors import UsageError
from provision.core.models.settings import SPECULATIVE, Settings
from provision.core.models.stack import WheelFile

DriverAction = Literal["keep", "install", "upgrade"]
DRIVER_ACTIONS: tuple[DriverAction, ...] = get_args(DriverAction)
LATEST, NEWEST = "latest", "newest"
"""The newest release that was tried, and the newest of all."""


@dataclass(frozen=True)
class Policy:
    """The settings that rules read. `gpus` is None for all cards."""

    vllm: str = LATEST
    driver: DriverAction | Literal["pinned"] = "keep"
    driver_version: str | None = None
    """The requested version of a pinned driver."""
    driver_branch: str | None = None
    """The requested branch of a pinned driver."""
    driver_source: Literal["auto", "vendor", "distribution"] = "auto"
    driver_mirror: bool = False
    """Whether the settings name a mirror of the vendor's packages."""
    cuda_compat: bool = False
    flash_attn: Literal["auto", "bundled", "package", "both", "none"] = "auto"
    flash_version: str | None = None
    """The requested release of the package."""
    builder: str | None = None
    flash_wheels: Literal["official", "community"] = "official"
    torch: Literal["managed", "existing"] = "managed"
    torch_version: str | None = None
    """The requested release of a managed torch."""
    python: str | None = None
    """The one interpreter of the host that may be used."""
    attention: str = "auto"
    dtype: str = "auto"
    gpus: tuple[int | str, ...] | None = None
    span: int = 1
    """Hosts that one model is spread over."""
    pipeline: int | None = None
    """The requested pipeline parallel size of a span."""
    executor: Literal["mp", "ray"] = "mp"
    """What starts the processes of a span."""
    packages: tuple[str, ...] = ()
    """Further requirements of the environment."""
    traces: bool = False
    """Whether the service sends traces."""
    accepted: frozenset[str] = frozenset()
    """The advisories whose risk the user takes."""
    arguments: tuple[str, ...] = ()
    """Further arguments of `vllm serve`."""
    runtime: Literal["venv", "podman"] = "venv"
    """What the service runs in."""

    @property
    def driver_setting(self) -> str:
        """Return the setting `driver` as written."""
        exact = f"=={self.driver_version}" if self.driver_version else self.driver_branch
        return exact or self.driver

    @property
    def upgrading(self) -> Self:
        """Return the same policy with `--driver upgrade`."""
        return replace(self, driver="upgrade", driver_version=None, driver_branch=None)

    @property
    def wants_vllm(self) -> bool:
        return self.vllm != "none"

    def wants_torch(self, version: str) -> bool:
        """Return whether a torch release may be used."""
        return self.torch_version in {None, version}


NEWER_RELEASES = "./firstlight catalog refresh adds newer releases of your index"
_NEEDS_VLLM = {"bundled": "vLLM's own kernels", "both": "vLLM's own kernels with the package"}


def policy_of(settings: Settings) -> Policy:
    """Return the policy in a host's settings.

    Raises:
        UsageError: Two settings contradict each other, or one names what the catalog does not have.
    """
    flash, flash_version = _word_or_version(settings.flash_attn)
    torch, torch_version = _word_or_version(settings.torch)
    action, driver_version, driver_branch = _driver(settings.driver)
    policy = Policy(
        vllm=settings.vllm,
        driver=action,
        driver_version=driver_version,
        driver_branch=driver_branch,
        driver_source=settings.driver_source,
        driver_mirror=settings.driver_repository is not None,
        cuda_compat=settings.cuda_compat,
        flash_attn=flash or "package",
        flash_version=flash_version,
        builder=settings.builder,
        flash_wheels=settings.flash_attn_wheels,
        torch=torch or "managed",
        torch_version=torch_version,
        python=settings.python,
        attention=settings.attention,
        dtype=settings.dtype,
        gpus=None if settings.gpus == "all" else tuple(settings.gpus),
        span=settings.span,
        pipeline=settings.pipeline_parallel if settings.span > 1 else None,
        executor=settings.executor,
        packages=settings.packages,
        traces=settings.otlp_traces_endpoint is not None,
        accepted=_known_advisories(settings.accept_advisories),
        arguments=(*settings.vllm_args, *([SPECULATIVE] if settings.speculative else [])),
        runtime=settings.runtime if settings.serve else "venv",
    )
    for one, other, why in _contradictions(policy, settings):
        raise UsageError(f"`{one}` contradicts `{other}`: {why}", hint="change one of the two settings")
    return policy


def _contradictions(policy: Policy, settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield two settings that contradict each other, and why."""
    attention, flash = f"--attention {policy.attention}", f"--flash-attn {policy.flash_attn}"
    flash_requested = policy.attention in {"flash", *catalog().flash_backends}
    if policy.driver_source == "distribution" and policy.driver_mirror:
        mirror = f"--set driver_repository={settings.driver_repository}"
        why = "the first selects the distribution's packages, the second a mirror of the vendor's"
        yield "--set driver_source=distribution", mirror, why
    if policy.flash_attn == "none" and flash_requested:
        yield flash, attention, "the first disables flash kernels, the second requires them"
    if not policy.wants_vllm and policy.flash_attn in _NEEDS_VLLM:
        yield "--vllm none", flash, f"{_NEEDS_VLLM[policy.flash_attn]} need vLLM"
    if not policy.wants_vllm and policy.attention != "auto":
        yield "--vllm none", attention, "an attention back end needs vLLM"
    if policy.runtime == "podman" and policy.torch == "existing":
        yield "--set runtime=podman", "--set torch=existing", "a container has no packages of the host"
    if policy.runtime == "podman" and policy.cuda_compat:
        why = "a container has the driver's own libraries, and no others before them"
        yield "--set runtime=podman", "--set cuda_compat=true", why
    if policy.dtype == "float32" and flash_requested:
        yield "--set dtype=float32", attention, "flash kernels support float16 and bfloat16"


def _known_advisories(ids: tuple[str, ...]) -> frozenset[str]:
    """Return the accepted advisories; a misspelt one would silently accept nothing."""
    known = {row.id for row in catalog().advisories}
    for name in ids:
        if name not in known:
            near = get_close_matches(name, sorted(known), n=3)
            raise UsageError(
                f"`firstlight_accept_advisories`: the catalog has no advisory `{name}`",
                hint=f"similar are {', '.join(near)}" if near else "write ids as the plan prints them",
            )
    return frozenset(ids)


def _word_or_version(value: str) -> tuple[Any, str | None]:
    """Return a setting's word, or the version in `==X`."""
    return (None, value.removeprefix("==")) if value.startswith("==") else (value, None)


def _driver(value: str) -> tuple[DriverAction | Literal["pinned"], str | None, str | None]:
    """Return the action for the driver, the requested version, and the requested branch."""
    for action in DRIVER_ACTIONS:
        if value == action:
            return action, None, None
    wanted = value.removeprefix("==").removesuffix(".*")
    if "." in wanted:
        return "pinned", wanted, None
    known = [str(row.branch) for row in catalog().branches if row.newest]
    if wanted not in known:
        raise UsageError(
            f"`--driver {value}`: the catalog has no release of driver branch {wanted}",
            hint=f"name a version such as ==580.95.05, or one of the branches {', '.join(known)}",
        )
    return "pinned", None, wanted


INFERRED = "inferred from the wheel, not in the tables"
_EXACT = re.compile(r"==(\S+)")


@dataclass(frozen=True)
class GivenWheel:
    """A wheel, and the rows that were inferred from it."""

    file: WheelFile
    release: Release
    build: Build

    @property
    def policy(self) -> str:
        """Return the setting `vllm` that names this release and no other."""
        return f"=={self.release.version}"


def names_wheel(vllm: str) -> bool:
    """Return whether a setting names a wheel: by its path, by an address, or by a development version that the tables lack."""
    if "/" in vllm or vllm.endswith(".whl"):
        return True
    exact = _EXACT.fullmatch(vllm)
    if exact is None or exact[1] in {row.version for row in catalog().releases}:
        return False
    version = Version(exact[1])
    return version.is_prerelease or version.local is not None
