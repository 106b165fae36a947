"""The request to uv: pinned builds by name and location."""

from packaging.version import Version

from provision.catalog.index.project_page import IndexLocation
from provision.core.models.stack import FlashInferPlan, KernelPackage
from provision.phases.stage.solve import LocatedBuild, builds_of, companions_of, make_request, target_of
from tests.stage.stacks import make_stack

VENDOR = "https://kernels.example/whl/cu130"


def test_prebuilt_kernels_are_pinned_builds_each_from_its_own_index() -> None:
    packages = (
        KernelPackage(distribution="flashinfer-cubin", version="0.7.0.post1"),
        KernelPackage(distribution="flashinfer-jit-cache", version="0.7.0.post1", index=VENDOR),
    )
    plan = FlashInferPlan(version="0.7.0.post1", kernels="prebuilt", packages=packages)
    stack = make_stack(None, None).model_copy(update={"flashinfer": plan})
    builds = {build.name: build for build in builds_of(stack)}
    assert (builds["flashinfer-cubin"].vendor, builds["flashinfer-jit-cache"].vendor) == (None, VENDOR)
    location = IndexLocation(VENDOR)
    found = Version("0.7.0.post1+cpu")
    assert builds["flashinfer-jit-cache"].fits(found, location)
    request = make_request(stack, target_of(stack), {"flashinfer-jit-cache": LocatedBuild(location, found)}, {})
    assert "flashinfer-cubin==0.7.0.post1" in request.requirements
    assert "flashinfer-jit-cache==0.7.0.post1+cpu" in request.requirements
    assert request.pins == (("flashinfer-jit-cache", VENDOR),)


def test_the_hosts_own_torch_is_neither_requested_nor_locked() -> None:
    stack = make_stack(None, "https://torch.example/whl/cpu")
    taken = stack.model_copy(update={"interpreter": stack.interpreter.model_copy(update={"torch": "2.7.0+cpu"})})
    assert [build.name for build in builds_of(taken)] == ["vllm"]
    assert companions_of(taken) == []
    request = make_request(taken, target_of(taken), {}, {})
    assert request.requirements == ("vllm==0.9.1",)
    assert {"torch", "torchvision", "torchaudio"} <= set(request.excluded)


def test_the_torch_of_a_rocm_build_is_requested_without_its_variant() -> None:
    stack = make_stack("https://wheels.example/rocm/0.20.1/rocm721", "https://wheels.example/rocm/0.20.1/rocm721")
    torch = next(build for build in builds_of(stack) if build.name == "torch")
    assert "+" not in torch.version
    location = IndexLocation("https://wheels.example/rocm/0.20.1/rocm721")
    assert torch.fits(Version(f"{torch.version}+git8514f05"), location)


def test_packages_for_traces_are_requested_where_the_plan_names_them() -> None:
    stack = make_stack(None, None).model_copy(update={"tracing": ("opentelemetry-sdk>=1.26.0",)})
    assert "opentelemetry-sdk>=1.26.0" in make_request(stack, target_of(stack), {}, {}).requirements


def test_ray_is_requested_where_it_starts_the_processes_and_nowhere_else() -> None:
    stack = make_stack(None, None)
    with_ray = stack.model_copy(update={"executor": "ray"})
    plain, asked = (make_request(each, target_of(each), {}, {}).requirements for each in (stack, with_ray))
    assert set(asked) - set(plain) == {"ray>=2.55.1"}
    assert not set(plain) - set(asked)
