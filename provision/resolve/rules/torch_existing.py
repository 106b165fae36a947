"""A torch that is on the host already is used only when it was seen there."""

from collections.abc import Iterator

from provision.resolve.rules.base import HostRule, Verdict, reject
from provision.resolve.view import View


def judge(view: View) -> Iterator[Verdict]:
    if view.policy.torch == "existing":
        yield reject(
            "`torch: existing` was asked for, and no facts of an installed torch were recorded", torch="existing"
        )


RULE = HostRule("torch-existing", "An existing torch can be used when the facts name it.", ("settings.torch",), judge)
