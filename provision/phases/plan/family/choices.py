"""How a model is served: the choices of its family for one release, and what the user's settings change in them."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import PurePath
from typing import Literal

from provision.catalog.rows import Row
from provision.core.models.settings import option_of
from provision.core.models.stack import FlashInferPlan, ServingChoice, ServingPlan
from provision.core.tables import rows_of
from provision.phases.plan.family.families import (
    HERE,
    Family,
    Kind,
    Releases,
    families,
    option_since,
    parsers,
    quantizations,
)
from provision.phases.plan.fit.serving_request import ServingRequest
from provision.phases.plan.fit.shape import FP8_BLOCK, KernelFormat, Shape

AUTO, NONE = "auto", "none"
_SETTING: dict[Kind, str] = {"tool": "firstlight_tool_parser", "reasoning": "firstlight_reasoning_parser"}
_PLUGIN: dict[Kind, str] = {"tool": "--tool-parser-plugin", "reasoning": "--reasoning-parser-plugin"}


def serving_plan(shape: Shape, request: ServingRequest, version: str) -> ServingPlan:
    """Return how a model is served by one release.

    Args:
        request: The user's settings, which always win.
    """
    family = families()[shape.match.family] if shape.match.family else None
    choices = [
        *_possible(shape, request),
        *_parser("tool", family, request, version),
        *_parser("reasoning", family, request, version),
        *_arguments_and_template(family, request, version),
        *_quantization_and_code(shape, request),
    ]
    return ServingPlan(family=family.name if family else None, choices=tuple(choices))


def unknown_parsers(request: ServingRequest, version: str) -> Iterator[str]:
    """Yield a text for each parser in the settings that a release does not have; a plugin may bring any name."""
    for kind, setting in _SETTING.items():
        name = _asked(kind, request)
        if name in {AUTO, NONE} or _given(_PLUGIN[kind], request.arguments):
            continue
        rows = parsers(kind)
        if name not in rows:
            near = get_close_matches(name, rows, n=3)
            similar = f"; similar are {', '.join(f'`{other}`' for other in near)}" if near else ""
            yield f"`{setting}: {name}`: no release of vLLM has this {kind} parser{similar}"
        elif not _available(kind, name, version):
            yield f"`{setting}: {name}`: vLLM {version} does not have this {kind} parser, which exists {rows[name]}"


def _asked(kind: Kind, request: ServingRequest) -> str:
    return request.tool_parser if kind == "tool" else request.reasoning_parser


def _available(kind: Kind, name: str, version: str) -> bool:
    return version in parsers(kind)[name] and version in Releases(option_since(kind))


def _possible(shape: Shape, request: ServingRequest) -> Iterator[ServingChoice]:
    if shape.match.possible and {request.tool_parser, request.reasoning_parser} == {AUTO}:
        text = (
            f"no parsers: config.json fits {' and '.join(shape.match.possible)}, and the model's name says none of them; "
            "firstlight_tool_parser and firstlight_reasoning_parser choose"
        )
        yield ServingChoice(name="family", by="model", text=text)


def _parser(kind: Kind, family: Family | None, request: ServingRequest, version: str) -> Iterator[ServingChoice]:
    own = (family.tools if kind == "tool" else family.reasoning) if family else None
    asked, setting = _asked(kind, request), _SETTING[kind]
    label = f"{kind} parser"
    instead = f"; the family {family.name} has `{own}`" if family and own and own != asked else ""
    if asked == NONE:
        yield _of(kind, None, "setting", f"no {label}, as `{setting}: none` says{instead}")
    elif asked != AUTO:
        yield _of(kind, asked, "setting", f"{label} `{asked}`, as `{setting}` says{instead}")
    elif family and own:
        if _available(kind, own, version):
            yield _of(kind, own, "family", f"{label} `{own}`, as the family {family.name} needs", family.source)
        else:
            text = f"no {label}: `{own}` of the family {family.name} exists {parsers(kind)[own]}, this is {version}"
            yield _of(kind, None, "family", text, family.source)


def _of(kind: Kind, value: str | None, by: str, text: str, source: str | None = None) -> ServingChoice:
    options = ("--enable-auto-tool-choice", "--tool-call-parser") if kind == "tool" else ("--reasoning-parser",)
    flags = (*options, value) if value is not None else ()
    values = {"name": f"{kind}_parser", "value": value, "by": by, "flags": flags, "text": text, "source": source}
    return ServingChoice.model_validate(values)


def _arguments_and_template(family: Family | None, request: ServingRequest, version: str) -> Iterator[ServingChoice]:
    for row in family.arguments if family else ():
        words, since = tuple(row["words"]), Releases(row["since"])
        said = f"`{' '.join(words)}`"
        assert family is not None
        if _given(words[0], request.arguments):
            text = f"`{words[0]}` as in firstlight_vllm_args; the family {family.name} has {said}: {row['why']}"
            yield ServingChoice(name="argument", by="setting", text=text, source=family.source)
        elif version in since:
            text = f"{said}, as the family {family.name} needs: {row['why']}"
            yield ServingChoice(
                name="argument", value=" ".join(words), by="family", flags=words, text=text, source=family.source
            )
    if request.template is not None:
        name = PurePath(request.template).name
        text = f"chat template `{name}`, as `firstlight_chat_template` says"
        yield ServingChoice(name="chat_template", value=name, by="setting", text=text)
    elif family and family.template:
        text = f"chat template: {family.template}"
        yield ServingChoice(name="chat_template", by="family", text=text, source=family.source)


def _quantization_and_code(shape: Shape, request: ServingRequest) -> Iterator[ServingChoice]:
    if shape.quantization:
        row = quantizations().get(shape.quantization)
        text = f"quantisation `{shape.quantization}`, as config.json says; vLLM loads it without an argument"
        yield ServingChoice(
            name="quantization", value=shape.quantization, by="model", text=text, source=row.source if row else None
        )
    if request.trust_remote_code:
        need = shape.match.code or "its config.json does not ask for any"
        text = f"code of the model's repository runs on the host, as `firstlight_trust_remote_code: true` says: {need}"
        flags = ("--trust-remote-code",)
        yield ServingChoice(name="trust_remote_code", value="true", by="setting", flags=flags, text=text)


def _given(option: str, arguments: Sequence[str]) -> bool:
    """Return whether arguments contain an option, or its opposite with `no-`. A shortened one still wins: it comes last."""
    return any(option_of(word).replace("--no-", "--", 1) == option for word in arguments)


KERNELS_MAJOR = "12"
"""Major of the compute capability that kernels.toml is about."""
_KERNEL_OPTIONS = {"experts": "--moe-backend", "linear": "--linear-backend"}
_KERNEL_LAYERS = {"experts": "experts", "linear": "layers with weights of 4 bits besides experts"}


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


@cache
def kernels() -> tuple[Kernel, ...]:
    return rows_of(HERE / "kernels.toml", "kernel", Kernel)


def kernel_choices(
    shape: Shape,
    request: ServingRequest,
    version: str,
    capability: str,
    *,
    tensor: int,
    flashinfer: FlashInferPlan | None,
) -> Iterator[ServingChoice]:
    """Yield the kernels that a release is expected to take for a model on cards of one compute capability.

    Args:
        request: The user's settings; layers whose kernel its arguments choose are left out.
        tensor: The number of devices that each layer is split over.
    """
    given = {word.partition("=")[0] for word in request.arguments}
    if capability.partition(".")[0] != KERNELS_MAJOR or "--kernel-config" in given:
        return
    # With several copies or adapters vLLM takes other kernels for experts that are not of 4 bits.
    plain = request.data == 1 and not request.adapters
    present = flashinfer is not None and flashinfer.kernels != "off"
    compiled = flashinfer is None or flashinfer.kernels == "compiled"
    form, cuts = shape.kernel_format, shape.expert_inner % (FP8_BLOCK * tensor) != 0
    for row in kernels():
        if (
            row.weights == form
            and (row.layers == "linear" or shape.experts_a_token)
            and (form in {"nvfp4", "mxfp4"} or (plain and (form or shape.quantization is None)))
            and not (form == "fp8-block" and cuts)
            and shape.text_type not in row.without
            and row.flashinfer in {None, present}
            and row.compiled in {None, compiled}
            and version in Releases(row.since, row.until)
            and _KERNEL_OPTIONS[row.layers] not in given
        ):
            text = f"{_KERNEL_LAYERS[row.layers]}: vLLM {version} is expected to take `{row.name}` on compute capability {capability}"
            yield ServingChoice(name="kernel", value=row.name, by="model", text=text, source=row.source)
