"""The model: whether it fits, and how it is served."""

from collections.abc import Iterator, Mapping
from typing import Any

from provision.catalog.versions import numbers, release
from provision.core.formatting import GIB
from provision.core.models.settings import speculates
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.family.choices import serving_plan, unknown_parsers
from provision.phases.plan.family.families import class_since, int8_on_x86, on_processors, quantizations
from provision.phases.plan.fit.result import Fit, fit, uncomputed
from provision.phases.plan.fit.shape import Shape
from provision.phases.plan.fit.split import why_not
from provision.phases.plan.fit.tables import lacks_bfloat16, rules, speculative
from provision.phases.plan.fit.weights import KNOWN
from provision.phases.plan.host_profile import HostProfile, ServedModel
from provision.phases.plan.rule import Verdict, accept, assume, host_rule, reject, rule


@host_rule(
    order=120,
    cause="model-too-large",
    source="provision/phases/plan/fit: vLLM's own arithmetic; the overhead of the engine is estimated",
)
def model_fit(profile: HostProfile) -> Iterator[Verdict]:
    """The model's weights and a context of useful length fit in the memory of the devices."""
    served, budget = profile.served_model, profile.budget
    if served is None:
        return
    if budget is None:
        yield assume(
            f"model `{served.model}` ({served.gib:.1f} GiB of weights) fits the devices, whose memory is unknown"
        )
        return
    found = fit(served.shape, served.request, budget)
    facts: dict[str, Any] = {
        "model": served.model,
        "architecture": served.shape.architecture,
        "weights_gib": round(served.gib, 1),
    }
    facts |= {"devices": budget.devices, "device_gib": round(budget.device_bytes / GIB, 1), "tensor": found.tensor}
    if found.problem:
        yield reject(found.problem, **facts)
        return
    yield from _assumptions(served)
    yield accept(_describe(found, served), length=found.length, tokens=found.tokens, **facts)


@host_rule(order=130)
def gpus_used(profile: HostProfile) -> Iterator[Verdict]:
    """A model that cannot be split over all GPUs of the host uses the first ones."""
    served, budget = profile.served_model, profile.budget
    if served is None or budget is None or budget.platform == "cpu":
        return
    request, tensor = served.request, fit(served.shape, served.request, budget).tensor
    others = request.pipeline * request.data
    used = tensor * others // request.hosts
    if used < budget.devices:
        requested = f"the settings request tensor {tensor} x pipeline {request.pipeline} x data {request.data} parallel"
        why = None if request.tensor else why_not(served.shape, budget.devices * request.hosts // others)
        indexes = ", ".join(str(card.index) for card in profile.cards[:used])
        text = f"{used} of {budget.devices} ({'index' if used == 1 else 'indexes'} {indexes}) serve the model: {why or requested}"
        yield accept(text, used=used, gpus=budget.devices)


def _assumptions(served: ServedModel) -> Iterator[Verdict]:
    if served.request.adapters:
        yield assume(f"the adapters of `{served.model}` fit; their memory is not computed")
    if served.shape.weights.source == KNOWN:
        yield assume(f"the sizes of `{served.model}` are those in Firstlight's catalog; the model hub does not answer")
    if served.request.drafts and served.shape.draft is None:
        yield assume(f"the KV cache and the draft model of `{served.model}` fit; they are not computed")
    elif why := uncomputed(served.shape, served.request):
        yield assume(f"the KV cache of `{served.model}` fits; it cannot be computed: {why}")
    elif not served.shape.known:
        yield assume(
            f"all layers of `{served.model}` have equal KV caches ({served.shape.architecture} is not in the table)"
        )


def _describe(found: Fit, served: ServedModel) -> str:
    draft = served.shape.draft
    parts = f", {draft.weights.total / GIB:.1f} GiB of them the draft model's," if draft else ""
    weights = f"{served.gib:.1f} GiB of weights{parts} fit"
    if found.length is None or found.tokens is None:
        return weights
    whole = found.length >= served.shape.usual_length
    length = f"a context of {found.length} tokens" + ("" if whole else f", of the model's {served.shape.usual_length}")
    return f"{weights} with {length}; the KV cache holds {found.tokens} tokens"


@host_rule(order=110, cause="remote-code", source="vllm/transformers_utils/config.py and vllm/tokenizers/hf.py, 0.32.0")
def remote_code(profile: HostProfile) -> Iterator[Verdict]:
    """A model that needs Python code of its repository has the user's explicit trust."""
    served = profile.served_model
    if served is None or served.shape.match.code is None:
        return
    facts: dict[str, Any] = {"model": served.model, "trust_remote_code": served.request.trust_remote_code}
    why = f"model `{served.model}` would run code of its repository on the host ({served.shape.match.code})"
    if elsewhere := served.shape.match.elsewhere:
        text = f"the code of model `{served.model}` is in another repository, `{elsewhere}`, which hosts cannot read: the service starts offline"
        yield reject(text, **facts)
    elif served.request.trust_remote_code:
        yield accept(f"{why}, and firstlight_trust_remote_code is true", **facts)
    else:
        yield reject(f"{why}, and firstlight_trust_remote_code is not true", **facts)


@host_rule(
    order=115, source="provision/phases/plan/fit/architectures.toml: attention of the classes in vllm/models, 0.32.0"
)
def attention_layers(profile: HostProfile) -> Iterator[Verdict]:
    """Readiness can read which kernels the attention layers of the model use."""
    served = profile.served_model
    if served is not None and served.shape.architecture in rules("own_attention")["names"]:
        text = f"model `{served.model}`: vLLM computes its attention by layers or kernels of its own, which Firstlight cannot prove yet; its start would fail"
        yield reject(text, architecture=served.shape.architecture)


@host_rule(order=117, cause="bf16-unsupported-gpu", source=rules("float16")["source"])
def data_type(profile: HostProfile) -> Iterator[Verdict]:
    """The GPUs compute in the data type of the settings, and vLLM computes the model in it."""
    dtype, served, row = profile.policy.dtype, profile.served_model, rules("float16")
    if dtype == "auto" or not profile.policy.wants_vllm:
        return
    facts: dict[str, Any] = {"dtype": dtype, "compute_capability": list(profile.capabilities)}
    older = [each for each in profile.kinds if lacks_bfloat16(each[1])]
    if dtype == "bfloat16" and older:
        name, capability = older[0]
        text = f"bfloat16 needs compute capability {row['below']}, {name} has {capability}"
        yield reject(text, **facts)
    elif dtype == "float16" and served and (kind := served.shape.model_type) in row["refused"]:
        text = (
            f"model `{served.model}` is of type {kind}, which is numerically unstable in float16, and vLLM refuses it"
        )
        yield reject(text, type=kind, **facts)
    elif dtype == "bfloat16" and (unknown := [name for name, capability in profile.kinds if capability is None]):
        yield assume(f"{unknown[0]} computes in bfloat16")
    else:
        yield accept(f"vLLM computes in {dtype} on this host", **facts)


@rule()
def quantization(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The vLLM version loads the quantisation that config.json names, and these GPUs, or this processor, compute with it."""
    served, release = profile.served_model, option.release
    row = quantizations().get(served.shape.quantization or "") if served else None
    if served is None or row is None or release is None:
        return
    on_cuda = profile.platform == "cuda"
    capabilities = profile.capabilities if on_cuda else ()
    facts: dict[str, Any] = {
        "quantization": row.name,
        "vllm": release.version,
        "capability": next(iter(capabilities), None),
    }
    named = [each for each in row.scheme if on_cuda and each.name in served.shape.quantization_schemes]
    refused = ((each, each.refuses(release.version, capabilities)) for each in (row, *named))
    scheme, why = next((pair for pair in refused if pair[1]), (row, None))
    if why:
        what = f"layers of the model are quantised as `{row.name}`, {scheme.name}"
        if scheme is row:
            what = f"the model's weights are quantised as `{row.name}`"
        yield reject(f"{what}, {why}", source=scheme.source, **facts)
    elif found := [*_on_processor(served.shape, profile, facts)]:
        yield from found
    else:
        yield accept(f"vLLM {release.version} loads weights quantised as `{row.name}`", source=row.source, **facts)


def _on_processor(shape: Shape, profile: HostProfile, facts: Mapping[str, Any]) -> Iterator[Verdict]:
    """Yield what a quantised model needs of a processor that does not have it, or of which that is unknown."""
    if profile.platform != "cpu":
        return
    formats = {shape.quantization or "", shape.kernel_format or "", *shape.quantization_schemes}
    row = on_processors(formats, has_experts=shape.experts > 0)
    if row and profile.isa not in row.levels:
        what = f"kernels for {'experts' if row.experts else 'weights'} in {next(name for name in row.names if name in formats)}"
        needed = " or ".join(row.levels)
        if needed and profile.isa is None:
            yield assume(f"the processor has {needed}, without which vLLM has no {what}")
        else:
            where = f"on processors without {needed}; this one supports {profile.isa}" if needed else "on processors"
            yield reject(f"vLLM has no {what} {where}", source=row.source, isa=profile.isa, **facts)
    if shape.int8_activations and profile.multiplies_int8 is not True:
        needed = " or ".join(int8_on_x86().flags)
        if profile.multiplies_int8 is None:
            yield assume(f"the processor has {needed}, without which it multiplies the model's 8-bit integers wrongly")
        else:
            text = f"the model multiplies 8-bit integers, which goes wrong on processors without {needed}; this one has neither"
            yield reject(text, source=int8_on_x86().source, **facts)


@rule(source="provision/phases/plan/fit/needs.toml: tried with vLLM 0.32.0")
def speculation(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """On CPUs, the vLLM version draws the tokens of speculative decoding as requests specify."""
    row = option.release
    if row is None or profile.platform != "cpu" or not speculates(profile.policy.arguments):
        return
    wrong = speculative()["wrong_on_cpus"]
    if numbers(row.version) > numbers(wrong):
        yield assume(f"vLLM {row.version} draws tokens rightly on CPUs with speculative decoding, as {wrong} does not")
        return
    text = (
        f"with speculative decoding, vLLM {row.version} draws tokens wrongly on CPUs, and a request with top_k ends it"
    )
    yield reject(text, vllm=row.version)


@rule(source="vllm/model_executor/models/registry.py of each release's wheel")
def model_class(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The vLLM version knows the class of the model."""
    served, row = profile.served_model, option.release
    since = class_since().get(served.shape.architecture) if served else None
    if served is None or row is None or since is None:
        return
    known = release(row.version) >= release(since)
    text = f"vLLM knows {served.shape.architecture} from {since} on; this is {row.version}"
    yield (accept if known else reject)(text, vllm=row.version)


@rule(source="provision/phases/plan/family/parsers.toml: the wheels of each release")
def serving_choices(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The vLLM version has the parsers in the settings; the family of the model decides the rest."""
    served, release = profile.served_model, option.release
    if served is None or release is None:
        return
    for problem in unknown_parsers(served.request, release.version):
        yield reject(problem, vllm=release.version)
    for choice in serving_plan(served.shape, served.request, release.version).choices:
        yield accept(choice.text, source=choice.source, by=choice.by, flags=list(choice.flags))


SPAN_SINCE = "0.11.1"
"""The first release whose processes start on several hosts without a scheduler (`--nnodes`)."""


@rule(
    order=130,
    source="vllm/engine/arg_utils.py of the wheels 0.11.0 and 0.11.1; github.com/vllm-project/vllm/pull/23691",
)
def span(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """If several hosts are to serve one model together, the vLLM version supports that."""
    policy, release = profile.policy, option.release
    if policy.span == 1 or release is None:
        return
    if numbers(release.version) < numbers(SPAN_SINCE):
        text = f"vLLM {release.version} serves a model on one host only; {policy.span} are wanted, and vLLM can do that from {SPAN_SINCE} on"
        yield reject(text, hosts=policy.span)
        return
    on_cpu = profile.platform == "cpu"
    pipeline = policy.pipeline or (1 if on_cpu else policy.span)
    cards = len(profile.cards)
    hosts = f"{policy.span} hosts" if on_cpu else f"{policy.span} hosts with {cards} GPU{'s' if cards > 1 else ''} each"
    if pipeline % policy.span == 0:
        split, link = "each has a part of the layers", "carries what one part of the layers hands to the next"
    else:
        split, link = "all share each layer", "is as fast as a link between GPUs: each layer waits for it"
    yield accept(f"{hosts} serve one model together: {split}", hosts=policy.span, pipeline=pipeline)
    # no fact names the speed of a link between hosts
    yield assume(f"the network between the {policy.span} hosts {link}")


RAY_SINCE = "0.23.0"
"""The first release that uses Ray only to start processes, which then speak as those that vLLM starts."""

WITHOUT_RAY = {"cpu": "current platform cpu does not support ray"}
"""Platforms for which vLLM takes no Ray, with what it says there: `ray_device_key` in vllm/platforms/cpu.py of 0.32.0 is empty."""


@rule(order=131, source="github.com/vllm-project/vllm/pull/36836; github.com/NovaSky-AI/SkyRL/issues/1653")
def executor(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """If Ray is to start the processes of a model over several hosts, the vLLM version supports Ray on this platform."""
    policy, release = profile.policy, option.release
    if policy.executor != "ray" or policy.span == 1 or release is None:
        return
    if numbers(release.version) < numbers(RAY_SINCE):
        text = f"firstlight_executor: ray needs vLLM {RAY_SINCE} or later, this is {release.version}; mp serves with it"
        yield reject(text)
    elif (said := WITHOUT_RAY.get(profile.platform)) is not None:
        text = f"firstlight_executor: ray: vLLM {release.version} ends here with `{said}`; mp serves on such hosts"
        yield reject(
            text, source="vllm/platforms/cpu.py and vllm/v1/executor/ray_utils.py of 0.32.0, tried with ray 2.60.0"
        )
    else:
        yield accept("Ray starts the processes of all hosts")
