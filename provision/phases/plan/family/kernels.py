"""The kernels that vLLM is expected to take for experts and for weights of 4 and 8 bits; its log says which ones it took."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

from provision.catalog.rows import Row
from provision.core.models.stack import ServingChoice
from provision.core.tables import rows_of
from provision.phases.plan.family.families import HERE, Releases
from provision.phases.plan.fit.shape import FP8_BLOCK, KernelFormat, Shape

FAMILY = "12"
"""Major of the compute capability that kernels.toml is about."""
_OPTIONS = {"experts": "--moe-backend", "linear": "--linear-backend"}
_LAYERS = {"experts": "experts", "linear": "layers with weights of 4 bits besides experts"}


class Kernel(Row):
    """One kernel; kernels.toml explains the values."""

    layers: Literal["experts", "linear"]
    weights: KernelFormat | None = None
    flashinfer: bool | None = None
    compiled: bool | None = None
    without: tuple[str, ...] = ()
    name: str
    since: str
    until: str | None = None
    source: str


@cache
def kernels() -> tuple[Kernel, ...]:
    return rows_of(HERE / "kernels.toml", "kernel", Kernel)


def kernel_choices(
    shape: Shape,
    version: str,
    capability: str,
    *,
    tensor: int,
    flashinfer: bool,
    compiled: bool,
    plain: bool,
    arguments: Sequence[str],
) -> Iterator[ServingChoice]:
    """Yield the kernels that a release is expected to take for a model on cards of one compute capability.

    Args:
        tensor: The number of devices that each layer is split over.
        flashinfer: Whether the host has FlashInfer's kernels.
        compiled: Whether the host compiles kernels when the service starts.
        plain: Whether it is one copy without adapters; otherwise vLLM takes other kernels for experts that are not of 4 bits.
        arguments: The user's arguments of `vllm serve`; layers whose kernel they choose are left out.
    """
    given = {word.partition("=")[0] for word in arguments}
    if capability.partition(".")[0] != FAMILY or "--kernel-config" in given:
        return
    form, cuts = shape.kernel_format, shape.expert_inner % (FP8_BLOCK * tensor) != 0
    for row in kernels():
        if (
            row.weights == form
            and (row.layers == "linear" or shape.experts_a_token)
            and (form in {"nvfp4", "mxfp4"} or (plain and (form or shape.quantization is None)))
            and not (form == "fp8-block" and cuts)
            and shape.text_type not in row.without
            and row.flashinfer in {None, flashinfer}
            and row.compiled in {None, compiled}
            and version in Releases(row.since, row.until)
            and _OPTIONS[row.layers] not in given
        ):
            text = f"{_LAYERS[row.layers]}: vLLM {version} is expected to take `{row.name}` on compute capability {capability}"
            yield ServingChoice(name="kernel", value=row.name, by="model", text=text, source=row.source)
