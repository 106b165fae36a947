"""The step that audits what a run staged, as soon as the locks are known."""

from __future__ import annotations

from provision.features.audit.audit import apply
from provision.run.context import RunContext
from provision.run.step import Step


def _is_requested(context: RunContext) -> bool:
    from_bundle = context.options.client is not None and context.options.client.bundled is not None
    return not from_bundle and any(host.settings.audit for host in context.inventory.hosts)


STEP = Step("audit", apply, "stage", applies=_is_requested, in_batches=True, after="stage")
