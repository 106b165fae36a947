"""The provider of the build."""

from collections.abc import Iterable, Iterator

from provision.catalog import catalog
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule


@rule(
    "The vLLM project's build ranks before a community build, and the plan says if the build is a community build.",
    reads=(),
    order=10,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:  # noqa: ARG001 - every rule is called alike
    return _evaluate(option)


def _evaluate(option: BuildOption) -> Iterator[Verdict]:
    build = option.build
    if build is None:
        return
    if build.provider == "community":
        yield accept(
            f"{build.distribution} {build.version} is a community build, not the vLLM project's",
            source=build.source,
        )
        if option.torch_variant != build.variant == "cpu":
            row = next(row for row in catalog().torch_stand_ins if row.version == build.version)
            text = f"torch {option.torch.version} from the package index: a CUDA build ({row.variant}) that computes on the CPU"
            yield accept(text, source=row.source)
    else:
        where = f" from {build.index}" if build.index else " from the package index (PyPI or your mirror)"
        yield accept(f"the vLLM project's build{where}", source=build.source)
