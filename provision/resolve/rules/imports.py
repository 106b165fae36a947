"""A release that does not import as it is installed is refused."""

from collections.abc import Iterable, Iterator

from provision.catalog import catalog
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, reject, remembered
from provision.resolve.view import View


def judge(option: Option, view: View) -> Iterable[Verdict]:  # noqa: ARG001 - every rule is called alike
    return _judge(option)


@remembered
def _judge(option: Option) -> Iterator[Verdict]:
    version = option.release.version if option.release else None
    for row in catalog().import_failures:
        if row.version == version:
            yield reject(f"vLLM {row.version} does not import: {row.why}; {row.cured} does", source=row.source)


RULE = Rule("imports", "Releases of vLLM that do not import as installed are refused.", (), judge)
