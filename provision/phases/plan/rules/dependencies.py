"""The age limit of dependencies."""

from collections.abc import Iterable, Iterator

from provision.catalog import catalog
from provision.phases.plan import dependencies
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, rule


@rule(
    "Dependencies without an upper bound in vLLM's metadata are no newer than the release; the newest vLLM releases may use the newest ones.",
    reads=(),
    order=130,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterable[Verdict]:  # noqa: ARG001 - every rule is called alike
    return _evaluate(option)


def _evaluate(option: BuildOption) -> Iterator[Verdict]:
    found = dependencies.choose(option)
    if found is None:
        return
    plan, table = found.plan, catalog().horizon
    if plan.until is None:
        text = (
            f"this vLLM is at most {table.current_days} days older than the newest: the newest dependencies are allowed"
            if found.released
            else "the release date is unknown: the newest dependencies are allowed"
        )
    else:
        text = (
            f"the release date is {found.released}: no dependency is newer than {plan.until}, by upload times if the package index has "
            f"them, else by {len(plan.bounds)} version bounds"
        )
    yield accept(text, source=table.source, released=found.released, bounds=plan.bounds)
