"""What a person wants of a Stack, taken from the settings and checked against itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from provision.catalog import catalog
from provision.catalog.versions import within
from provision.core.errors import UsageError
from provision.core.models.settings import Settings

FlashAttn = Literal["auto", "bundled", "package", "both", "none"]
FLASH_ATTN: tuple[FlashAttn, ...] = get_args(FlashAttn)
DriverAction = Literal["keep", "install", "upgrade"]
DRIVER_ACTIONS: tuple[DriverAction, ...] = get_args(DriverAction)


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that rules read. `gpus` is None for all cards."""

    vllm: str = "latest"
    driver: DriverAction | Literal["pinned"] = "keep"
    driver_version: str | None = None
    """Of a pinned driver: the version that was asked for."""
    driver_branch: str | None = None
    """Of a pinned driver: the branch that was asked for."""
    driver_source: Literal["auto", "vendor", "distribution"] = "auto"
    driver_mirror: bool = False
    """Whether a mirror of the vendor's packages was named."""
    cuda_compat: bool = False
    flash_attn: FlashAttn = "auto"
    flash_version: str | None = None
    """The package's release, where one was asked for."""
    builder: str | None = None
    flash_wheels: Literal["official", "community"] = "official"
    torch: Literal["managed", "existing"] = "managed"
    python: str | None = None
    """The one interpreter of the host that may be used."""
    attention: str = "auto"
    dtype: str = "auto"
    gpus: tuple[int, ...] | None = None

    @property
    def driver_setting(self) -> str:
        """The driver's policy as it was written."""
        exact = f"=={self.driver_version}" if self.driver_version else self.driver_branch
        return exact or self.driver

    @property
    def wants_vllm(self) -> bool:
        return self.vllm != "none"

    def wants_release(self, version: str) -> bool:
        """Whether a vLLM release is within what was asked for."""
        return self.vllm == "latest" or within(version, self.vllm)


_NEEDS_VLLM = {"bundled": "vLLM's own kernels", "both": "vLLM's own kernels beside the package"}


def policy_of(settings: Settings) -> Policy:
    """The policy in a host's settings. Raises UsageError when two of them contradict each other, naming both."""
    flash, version = _flash(settings.flash_attn)
    action, driver_version, driver_branch = _driver(settings.driver)
    policy = Policy(
        vllm=settings.vllm,
        driver=action,
        driver_version=driver_version,
        driver_branch=driver_branch,
        driver_source=settings.driver_source,
        driver_mirror=settings.driver_repository is not None,
        cuda_compat=settings.cuda_compat,
        flash_attn=flash,
        flash_version=version,
        builder=settings.builder,
        flash_wheels=settings.flash_attn_wheels,
        torch=settings.torch,
        python=settings.python,
        attention=settings.attention,
        dtype=settings.dtype,
        gpus=None if settings.gpus == "all" else tuple(settings.gpus),
    )
    _check_vllm(policy.vllm)
    if policy.driver_source == "distribution" and policy.driver_mirror:
        raise _contradiction(
            "driver_source: distribution",
            f"driver_repository: {settings.driver_repository}",
            "one wants the distribution's packages, the other names a mirror of the vendor's",
        )
    flash_requested = policy.attention in {"flash", *catalog().flash_backends}
    if policy.flash_attn == "none" and flash_requested:
        raise _contradiction(
            "flash_attn: none", f"attention: {policy.attention}", "one forbids flash kernels, the other asks for them"
        )
    if not policy.wants_vllm and policy.flash_attn in _NEEDS_VLLM:
        raise _contradiction(
            "vllm: none", f"flash_attn: {policy.flash_attn}", f"{_NEEDS_VLLM[policy.flash_attn]} come with vLLM"
        )
    if not policy.wants_vllm and policy.attention != "auto":
        raise _contradiction("vllm: none", f"attention: {policy.attention}", "an attention back end is vLLM's")
    if policy.dtype == "float32" and flash_requested:
        raise _contradiction(
            "dtype: float32", f"attention: {policy.attention}", "flash kernels compute in float16 and bfloat16"
        )
    return policy


def _flash(value: str) -> tuple[FlashAttn, str | None]:
    """`==X` is the package, of that release."""
    if value.startswith("=="):
        within("0", value)
        return "package", value.removeprefix("==")
    for known in FLASH_ATTN:
        if value == known:
            return known, None
    raise UsageError(
        f"`flash_attn: {value}` is not understood", hint=f"write {', '.join(FLASH_ATTN)} or =={value.lstrip('=<>~!')}"
    )


def _driver(value: str) -> tuple[DriverAction | Literal["pinned"], str | None, str | None]:
    """What may happen to the driver, the version that is wanted, and the branch."""
    for action in DRIVER_ACTIONS:
        if value == action:
            return action, None, None
    wanted = value.removeprefix("==").removesuffix(".*")
    if re.fullmatch(r"\d{3}(\.\d+){1,2}", wanted) and value == f"=={wanted}":
        return "pinned", wanted, None
    if not re.fullmatch(r"\d{3}", wanted):
        raise UsageError(
            f"`driver: {value}` is not understood",
            hint="write keep, install, upgrade, a version such as ==580.95.05, or a branch such as 580",
        )
    known = [str(row.branch) for row in catalog().branches if row.newest]
    if wanted not in known:
        raise UsageError(
            f"`driver: {value}`: the catalog knows no release of driver branch {wanted}",
            hint=f"name a version of it, as in ==580.95.05, or one of the branches {', '.join(known)}",
        )
    return "pinned", None, wanted


def _check_vllm(value: str) -> None:
    if value in {"latest", "none"}:
        return
    if not value.startswith(("==", ">=")):
        raise UsageError(f"`vllm: {value}` is not understood", hint=f"write latest, none, =={value} or >={value}")
    within("0", value)


def _contradiction(one: str, other: str, why: str) -> UsageError:
    return UsageError(f"`{one}` contradicts `{other}`: {why}", hint="change one of the two settings")
