"""The wheel builder of a run: it knows all builds of the plan, and the hosts that can build."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from provision.catalog.index.settings import read_settings
from provision.core.errors import StageError
from provision.core.models.inventory import Connection, Host
from provision.core.models.stack import FlashAttnPackage, Plan
from provision.core.models.staged import StagedFile
from provision.fleet.inventory import load
from provision.fleet.ssh import Session, open_session
from provision.phases.stage import Store
from provision.phases.stage.builds.build_key import BuildKey
from provision.phases.stage.builds.wheel_builder import CONTROLLER, WheelBuilder
from provision.phases.stage.interpreter import stage_interpreter
from provision.phases.stage.platforms import Target
from provision.run.context import RunContext


def wheel_builder_of(context: RunContext, plan: Plan) -> WheelBuilder:
    """Return a wheel builder that knows the builds of the whole plan, so that one build serves several classes."""
    keys = tuple(BuildKey.of(package) for package in _built(plan))
    return make_wheel_builder(context.wheelhouse(), Path(context.inventory.source), keys)


def make_wheel_builder(store: Store, inventory: Path, fleet: tuple[BuildKey, ...] = ()) -> WheelBuilder:
    """Return a wheel builder that can build on this machine and on all hosts of an inventory, whatever the command's limit."""
    return WheelBuilder(
        store,
        partial(_open_builder, inventory),
        python=sys.executable,
        interpreter=partial(_interpreter, store),
        fleet=fleet,
    )


def _built(plan: Plan) -> list[FlashAttnPackage]:
    stacks = [resolution.stack for resolution in plan.classes if resolution.stack]
    return [package for stack in stacks if (package := stack.flash_attn.package) and package.source == "built"]


def _open_builder(inventory: Path, name: str) -> Session:
    if name == CONTROLLER:
        connection = Connection(kind="local")
        return open_session(Host.model_construct(name=CONTROLLER, connection=connection))
    hosts = {host.name: host for host in load(inventory).hosts}
    if name not in hosts:
        raise StageError(
            f"builder `{name}` is no host of {inventory}",
            hint=f"name one of {', '.join(sorted(hosts))}, or {CONTROLLER}",
        )
    return open_session(hosts[name])


def _interpreter(store: Store, target: Target) -> StagedFile:
    minor = "{}.{}".format(*target.minor)
    return stage_interpreter(Target(target.machine, target.glibc_minor, minor), read_settings(), store)[1]
