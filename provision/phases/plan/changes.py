"""The changes that `provision` would make on a host, as text."""

from __future__ import annotations

from provision.catalog import catalog
from provision.catalog.packages import packages_of_component
from provision.catalog.system import os_packages
from provision.catalog.versions import platform_of
from provision.core.install_paths import default_prefix
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.phases.plan import fabric, rocm

UNIT = "firstlight-vllm.service"
USER = "firstlight"


def changes(stack: Stack, facts: HostFacts, settings: Settings, *, root: bool) -> list[tuple[str, str]]:
    """Return pairs of subject and change. `root` means a system-wide installation."""
    prefix = settings.prefix or str(default_prefix(uid=0 if root else 1, home=facts.user.home or "~"))
    need = catalog().needs[platform_of(stack.variant)]
    found = [
        ("packages", _packages(stack, facts)),
        ("driver", _driver(stack)),
        ("fabric", _fabric(stack, facts)),
        ("rocm", _rocm(stack, facts)),
        ("cuda-compat", f"{stack.cuda_compat.package}, only for the service" if stack.cuda_compat else None),
        (
            "python",
            f"{stack.interpreter.version} under {prefix}/python" if stack.interpreter.origin == "managed" else None,
        ),
        ("environment", f"{prefix}/envs/DIGEST, about {need.installed:g} GiB; {prefix}/current points at it"),
        ("user", f"system user {USER}" if root and _unknown_user(facts) else None),
        ("model", _model(stack, settings, prefix)),
        ("service", _service(stack, settings)),
    ]
    return [(what, how) for what, how in found if how]


def _packages(stack: Stack, facts: HostFacts) -> str | None:
    if not stack.system_packages:
        return None
    manager = facts.os.package_manager
    if manager not in catalog().install_commands:
        return ", ".join(stack.system_packages)
    names = os_packages(
        stack.system_packages,
        manager=manager,
        python=stack.python,
        os_id=facts.os.id,
        os_version=facts.os.version_id,
    )
    return f"{' '.join(names)} (by {manager})"


def _driver(stack: Stack) -> str | None:
    plan = stack.driver
    if plan is None or plan.action == "keep":
        return None
    whose = "the distribution's packages" if plan.source == "distribution" else "the vendor's packages"
    return f"{plan.action} {plan.version}, {plan.module} kernel module, from {whose}; needs a reboot"


def _fabric(stack: Stack, facts: HostFacts) -> str | None:
    if not fabric.needs_install(stack, facts):
        return None
    present = facts.nvidia.fabric_manager_version if facts.nvidia else None
    additions = " with nvlsm and ib_umad" if stack.subnet_manager else ""
    instead = f" instead of {present}" if present and present != stack.fabric_manager else ""
    return f"fabric manager {stack.fabric_manager}{instead}{additions}"


def _rocm(stack: Stack, facts: HostFacts) -> str | None:
    parts = rocm.lacking(stack, facts)
    if not parts:
        return None
    names = ", ".join(" ".join(packages_of_component(part)) for part in parts)
    present = facts.amd.rocm_version if facts.amd else None
    change = f" {present} to {stack.rocm.version}" if stack.rocm and stack.rocm.action == "upgrade" else ""
    restart = "; needs a reboot" if rocm.DRIVER in parts else ""
    return f"{names}{change}, from AMD's packages{restart}"


def _unknown_user(facts: HostFacts) -> bool:
    return facts.installed is None or facts.installed.state is None


def _model(stack: Stack, settings: Settings, prefix: str) -> str | None:
    if not settings.serve or stack.vllm is None:
        return None
    if settings.model == "builtin":
        return f"built-in, created on the host under {prefix}/models"
    if settings.model_on_host is not None:
        return f"{settings.model}, linked from {settings.model_on_host} on the host"
    return f"{settings.model}, sent to {prefix}/models"


def _service(stack: Stack, settings: Settings) -> str | None:
    if not settings.serve or stack.vllm is None:
        return None
    how = {
        "systemd": f"{UNIT}, enabled",
        "systemd-user": f"{UNIT} of this user, enabled",
        "supervisor": "run by supervisor; it does not survive a reboot",
    }[stack.supervisor]
    key = "with an API key" if settings.api_key else "without an API key"
    return f"{how}; listens on {settings.bind}:{settings.port} {key}"
