"""In a container the driver is the machine's below: it must be visible, and it stays."""

from collections.abc import Iterator

from provision.resolve.rules.base import HostRule, Verdict, accept, assume, reject
from provision.resolve.view import View


def judge(view: View) -> Iterator[Verdict]:
    if view.platform != "cuda":
        return
    if not view.container_known:
        yield assume("the host is no container")
    elif view.container and view.driver_absent:
        text = f"this is a container ({view.container}) without a visible NVIDIA driver, and a driver cannot be installed from inside"
        yield reject(text, container=view.container, driver=None)
    elif view.container:
        yield accept(f"in a container ({view.container}) the driver is left as it is", container=view.container)


RULE = HostRule(
    "container-driver", "In a container the driver is the machine's below and stays.", ("container", "nvidia"), judge
)
