"""Parser of a host's check results; every output becomes at least one record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError

from provision.core.models.records import CheckRecord, Figure
from provision.core.run_folder import utc_now
from provision.fleet.ssh import Completed
from verify.records import EXIT_CODES, FRAME, Status, worst_status

NO_ENVIRONMENT = 66
"""Exit code of our script if there is no environment."""
TAIL_LINES = 8


@dataclass(frozen=True)
class Verified:
    """Check results of one host."""

    checks: tuple[CheckRecord, ...]
    document: dict[str, Any]
    """The document of `verify --json`; its checks have the inventory's name of the host."""

    @property
    def status(self) -> Status:
        """The worst status."""
        return worst_status([check.status for check in self.checks])

    @property
    def exit_code(self) -> int:
        """Exit code of `verify`: 0, 1, 2 or 3."""
        return EXIT_CODES[self.status]


def read(host: str, done: Completed, *, environment: str) -> Verified:
    """Parse the output of a host; a host without valid output gets one record with the problem. `environment` is its folder."""
    if done.rc == NO_ENVIRONMENT:
        text = f"no environment at {environment}"
        return broken(host, text, remedy="install it first: ./firstlight provision")
    try:
        document = json.loads(done.stdout)
        checks = [_record(host, check) for check in document["checks"]]
    except (ValueError, ValidationError, KeyError, TypeError, AttributeError) as error:
        output = (done.stderr.strip() or done.stdout.strip()).splitlines()[-TAIL_LINES:]
        text = (
            f"the checks ended with exit code {done.rc} and without a document: {output[-1] if output else 'no output'}"
        )
        evidence = {"output": "\n".join(output), "problem": f"{type(error).__name__}: {error}"}
        return broken(
            host, text, evidence=evidence, remedy=f"run on the host: {environment}/bin/python -c 'import torch'"
        )
    if not checks:
        return broken(host, "the checks returned an empty list")
    return Verified(tuple(checks), {**document, "host": host, "checks": [check.model_dump() for check in checks]})


def _record(host: str, check: Mapping[str, Any]) -> CheckRecord:
    """Return a check of the tool's document, with the inventory's host name and without keys of other releases."""
    figures = tuple(Figure(**_known(figure, Figure.model_fields)) for figure in check.get("figures") or ())
    return CheckRecord(**{**_known(check, CheckRecord.model_fields), "figures": figures, "host": host})


def _known(values: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in fields}


def broken(host: str, text: str, *, evidence: Any = None, remedy: str | None = None) -> Verified:
    """Return the record of a host whose checks have no results; `text` is the reason."""
    check = CheckRecord(
        id=FRAME, family="frame", status="error", host=host, reason=text, evidence=evidence, remedy=remedy
    )
    document = {"schema_version": 1, "status": "error", "host": host, "started_at": utc_now(), "seconds": 0.0}
    return Verified((check,), cast("dict[str, Any]", {**document, "checks": [check.model_dump()]}))
