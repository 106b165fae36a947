"""Releases that cannot be imported as installed."""

from collections.abc import Iterable, Iterator

from provision.catalog import catalog
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, reject, rule


@rule("The vLLM release can be imported as installed.", reads=(), order=290)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:  # noqa: ARG001 - every rule is called alike
    return _evaluate(option)


def _evaluate(option: BuildOption) -> Iterator[Verdict]:
    version = option.release.version if option.release else None
    for row in catalog().import_failures:
        if row.version == version:
            yield reject(f"vLLM {row.version} cannot be imported: {row.why}; {row.cured} can", source=row.source)
