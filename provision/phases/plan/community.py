"""Third-party wheels of the flash-attn package, for `--flash-attn-wheels community`."""

from __future__ import annotations

from provision.catalog import catalog
from provision.catalog.rows.attention import CommunityWheels
from provision.catalog.versions import cuda_of, numbers, release
from provision.core.models.stack import FlashAttnKey, FlashAttnPackage
from provision.phases.plan import gpu_code

FILE = "flash_attn-{version}+{variant}torch{torch}-{cp}-{cp}-{platform}.whl"


def find(key: FlashAttnKey, variant: str, version: str | None) -> CommunityWheels | None:
    """Return the newest wheels with a key. Their CUDA has the major of torch's and is not newer."""
    cuda = cuda_of(variant)
    if cuda is None:
        return None
    rows = [
        row for row in catalog().community_wheels if version in {None, row.version} and _has(row, key, numbers(cuda))
    ]
    return max(rows, key=lambda row: (release(row.version), _cuda(row)), default=None)


def package(row: CommunityWheels, key: FlashAttnKey) -> FlashAttnPackage:
    """Return a row's wheel for a key."""
    cp = f"cp{key.python.replace('.', '')}"
    file = FILE.format(version=row.version, variant=row.variant, torch=key.torch, cp=cp, platform=row.platform)
    return FlashAttnPackage(version=row.version, source="wheel", file=file, key=key, community=row.repository)


def _has(row: CommunityWheels, key: FlashAttnKey, cuda: tuple[int, ...]) -> bool:
    return (
        key.torch in row.torch
        and key.python in row.pythons
        and key.machine == row.machine
        and _cuda(row)[0] == cuda[0]
        and _cuda(row) <= cuda
        and numbers(key.glibc) >= numbers(row.glibc)
        and gpu_code.all_native(row.codes, key.capabilities)
    )


def _cuda(row: CommunityWheels) -> tuple[int, ...]:
    return numbers(cuda_of(row.variant) or "0")
