"""A driver can be brought only where its packages are known for the system, and where installing acts as root."""

from collections.abc import Iterator

from provision.catalog.packages import package_system
from provision.errors import UsageError
from provision.resolve import driver
from provision.resolve.option import Option
from provision.resolve.rules.base import Rule, Verdict, accept, assume, reject
from provision.resolve.view import View


def judge(option: Option, view: View) -> Iterator[Verdict]:
    plan = driver.choose(option, view)
    if plan is None or plan.action == "keep":
        return
    if view.escalates is False:
        become = "; `ansible_become: true` would (this user's sudo asks no password)" if view.sudo else ""
        text = f"driver {plan.version} is to be brought, and installing does not act as root there{become}"
        yield reject(text, action=plan.action, escalates=False)
    if view.os_id is None:
        yield assume(f"packages of driver {plan.version} are published for the host's system")
        return
    system = f"{view.os_id} {view.os_version or ''}".rstrip()
    try:
        row = package_system(view.os_id, view.os_version)
    except UsageError as error:
        yield reject(f"driver {plan.version} is to be brought: {error.text}; {error.hint}", system=system)
        return
    yield accept(f"packages of driver {plan.version} are published for {system}", source=row.source, system=system)


RULE = Rule(
    "driver-source",
    "A driver that is brought has packages for the system, and root to install them.",
    ("os.id", "os.version_id", "user"),
    judge,
)
