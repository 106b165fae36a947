"""The order of a run: the steps of the core, and those of the features. Nothing else knows it."""

from dataclasses import replace
from functools import partial

from provision.core import features
from provision.core.models.records import PHASES, PhaseName
from provision.phases.drivers import step as drivers
from provision.phases.install import step as install
from provision.phases.plan import step as plan
from provision.phases.probe import step as probe
from provision.phases.probe.reading import IN_FULL
from provision.phases.serve import step as serve
from provision.phases.stage import step as stage
from provision.phases.verify import step as verify
from provision.run.step import Step

PROBE = Step("probe", probe.probe, "probe", "all", reads_only=True)
PROBE_IN_FULL = replace(PROBE, run=partial(PROBE.run, more={IN_FULL}))
PLAN = Step("plan", plan.plan, "plan", reads_only=True)
CHANGES = Step("changes", plan.compare, "plan", reads_only=True)
DRIVERS = Step("drivers", drivers.apply, "install", in_batches=True)
STAGE = Step("stage", stage.stage, "stage", in_batches=True)
INSTALL = Step("install", install.install, "install", in_batches=True)
VERIFY = Step("verify", verify.verify, "verify", in_batches=True)
SERVE = Step("serve", serve.serve, "serve", in_batches=True)
CORE = (PROBE, PLAN, CHANGES, DRIVERS, STAGE, INSTALL, VERIFY, SERVE)
OF_FEATURES = sorted((module.STEP for module in features.modules("step")), key=lambda step: step.rank)
STEPS = tuple(step for own in CORE for step in (own, *(one for one in OF_FEATURES if one.after == own.name)))
BEFORE_PLAN = STEPS[: STEPS.index(PLAN)]
"""What a command begins with that plans or changes hosts: the probe, and the steps of features that leave hosts out."""
FLEET = tuple(step for step in STEPS if step.phase == "serve" and step.scope == "all")
"""The steps that come when hosts serve: for what stands before, beside and around them."""
AFTER_SERVE = STEPS[STEPS.index(SERVE) + 1 :]
"""All that follows a host's release: its watchdog, and the steps of `FLEET`."""


def fleet_steps(*names: str) -> tuple[Step, ...]:
    """Return the steps of `FLEET` that have these names, in order."""
    return tuple(step for step in FLEET if step.name in names)


def steps_until(last: PhaseName) -> tuple[Step, ...]:
    """Return the steps of a run that ends with a phase."""
    wanted = PHASES[: PHASES.index(last) + 1]
    return tuple(step for step in STEPS if step.phase in wanted)
