"""The Stack of an accepted candidate."""

from typing import Literal

from provision.catalog import catalog
from provision.catalog.versions import minor, numbers
from provision.core.models.stack import (
    AttentionPlan,
    FlashInferPlan,
    ModelPlan,
    ServingPlan,
    Stack,
    TorchBuild,
    VllmBuild,
)
from provision.phases.plan import attention, driver, flash, interpreter, rocm
from provision.phases.plan.build_option import BuildOption, dependencies_of, tracing_of
from provision.phases.plan.family.choices import kernel_choices, serving_plan
from provision.phases.plan.fit.result import fit
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rules.system import glibc_floor

TRITON_PACKAGE = {"FLASH_ATTENTION_TRITON_AMD_ENABLE": "TRUE"}
"""What flash-attn's kernels in Triton need where they run, by the README of its sdist."""


def stack_of(option: BuildOption, profile: HostProfile) -> Stack:
    """Return the Stack of a candidate that every rule accepts for a class."""
    python = interpreter.choose(option, profile).plan
    assert python is not None
    machine = profile.machine or "x86_64"
    plan = driver.choose(option, profile)
    manager = driver.fabric_manager_version(profile, plan)
    flashinfer_plan = flash.choose_flashinfer(option, profile)
    model = _model(profile)
    without_headers = {each.path for each in profile.pythons if each.headers is False}
    return Stack(
        vllm=_vllm(option),
        torch=_torch(option, None if python.torch else machine),
        dependencies=dependencies_of(option),
        driver=plan,
        rocm=rocm.choose(option, profile),
        cuda_compat=driver.choose_compat(option, profile),
        fabric_manager=manager,
        subnet_manager=manager is not None and driver.subnet_managed(profile),
        flash_attn=flash.choose(option, profile).plan,
        attention=_attention(option, profile),
        flashinfer=flashinfer_plan.plan if flashinfer_plan else None,
        gpus=tuple(card.index for card in profile.cards),
        gpu_slice=next((card.part.index for card in profile.cards if card.part), None),
        python=minor(python.version),
        interpreter=python,
        platform=platform(machine, profile.glibc or glibc_floor(option)[0]),
        system_packages=(*profile.lacking, *(("python-headers",) if python.path in without_headers else ())),
        supervisor=supervisor(profile),
        executor=profile.policy.executor,
        tracing=tracing_of(option) if profile.policy.traces else (),
        packages=profile.policy.packages,
        model=model,
        serving=_serving(option, profile, flashinfer_plan.plan if flashinfer_plan else None, model),
    )


def _model(profile: HostProfile) -> ModelPlan | None:
    served, budget = profile.served_model, profile.budget
    if served is None or budget is None:
        return None
    found, request = fit(served.shape, served.request, budget), served.request
    sizes = {"tensor": found.tensor, "pipeline": request.pipeline, "data": request.data}
    flags = [word for name, size in sizes.items() if size > 1 for word in (f"--{name}-parallel-size", str(size))]
    flags += ["--dtype", "float32"] if request.dtype == "float32" else []
    if found.length and (request.length or found.length < served.shape.usual_length):
        flags += ["--max-model-len", str(found.length)]
    return ModelPlan(
        name=served.model,
        architecture=served.shape.architecture,
        inputs=served.shape.inputs,
        weights_bytes=served.shape.weights.total,
        tensor_parallel=found.tensor,
        pipeline_parallel=request.pipeline,
        data_parallel=request.data,
        own_max_model_len=served.shape.length,
        max_model_len=found.length,
        device_weights_bytes=found.weights,
        device_overhead_bytes=found.overhead,
        device_cache_bytes=found.cache_bytes,
        cache_tokens=found.tokens,
        flags=tuple(flags),
    )


def _serving(
    option: BuildOption, profile: HostProfile, flashinfer: FlashInferPlan | None, model: ModelPlan | None
) -> ServingPlan | None:
    served, release = profile.served_model, option.release
    if served is None or release is None:
        return None
    found = serving_plan(served.shape, served.request, release.version)
    capability = (profile.cards[0].compute_capability if profile.cards else None) or ""
    tensor = model.tensor_parallel if model else 1
    kernels = kernel_choices(
        served.shape, served.request, release.version, capability, tensor=tensor, flashinfer=flashinfer
    )
    return found.model_copy(update={"choices": (*found.choices, *kernels)})


def _torch(option: BuildOption, machine: str | None) -> TorchBuild:
    """Return the torch of a Stack. `machine` is None for the host's torch, which needs no index."""
    index = option.torch_index(machine) if machine else None
    if machine and option.build is not None and option.variant.startswith("rocm"):
        index = option.build.index  # vLLM's ROCm builds have their own torch there
    return TorchBuild(version=option.torch.version, variant=option.torch_variant, index=index)


def _vllm(option: BuildOption) -> VllmBuild | None:
    build = option.build
    if build is None:
        return None
    return VllmBuild(
        version=build.version,
        variant=build.variant,
        provider=build.provider,
        distribution=build.distribution,
        index=build.index,
        wheel=option.wheel,
    )


def _attention(option: BuildOption, profile: HostProfile) -> AttentionPlan:
    plan = attention.choose(option, profile).plan if option.release else None
    plan = plan or AttentionPlan(backend="NO_ATTENTION")
    package = flash.choose(option, profile).plan.package
    if package is None or package.kernels != "triton":
        return plan
    return plan.model_copy(update={"environment": plan.environment | TRITON_PACKAGE})


def platform(machine: str, glibc: str) -> str:
    """Return uv's name of a platform, for the largest glibc with a name that is not newer than the given one."""
    names = [name for name in catalog().platform_tag.glibc if numbers(name) <= numbers(glibc)]
    best = names[-1] if names else catalog().platform_tag.glibc[0]
    return f"{machine}-manylinux_{best.replace('.', '_')}"


def supervisor(profile: HostProfile) -> Literal["systemd", "systemd-user", "supervisor"]:
    """Return the service manager: systemd with root, the user's systemd with lingering, else supervisor."""
    if profile.systemd is False:
        return "supervisor"
    if profile.escalates is not False:
        return "systemd"
    return "systemd-user" if profile.lingering else "supervisor"
