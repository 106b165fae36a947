"""Where the wheel builder takes part in the work of the core: it provides the packages of the Stacks that are staged."""

from pathlib import Path

from provision.core.models.stack import Plan
from provision.features.wheel_builder.recipes import BuildKey
from provision.features.wheel_builder.wheel_builder import WheelBuilder, make_wheel_builder
from provision.phases.stage import Store


def packager(store: Store, inventory: Path, plan: Plan) -> WheelBuilder:
    """Return a wheel builder that knows the builds of the whole plan, so that one build serves several classes."""
    stacks = [resolution.stack for resolution in plan.classes if resolution.stack]
    packages = [stack.flash_attn.package for stack in stacks if stack.flash_attn.package]
    fleet = tuple(BuildKey.of(package) for package in packages if package.source == "built")
    return make_wheel_builder(store, inventory, fleet)
