"""The software bill of materials of the controller's lock."""

from __future__ import annotations

from provision.phases.stage.programs import LOCK
from provision.phases.stage.sbom import controller_sbom

TARGET = "requirements/sbom.cdx.json"


def generate() -> str:
    """Return the document of requirements/run.txt."""
    return controller_sbom(LOCK.read_text(encoding="utf-8"))
