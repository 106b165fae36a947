"""What the doctor says of hosts that failed, kept in the run for its summary."""

from __future__ import annotations

from provision.pipeline.context import Walk


def diagnose(walk: Walk) -> None:
    """Read every failed host's own words, with what the probe saw of it, for causes that the doctor knows."""
    from provision.diagnosis import diagnose as causes_of  # noqa: PLC0415 - only a walk that failed pays for it

    for name, results in walk.results.items():
        failed = [result for result in results.values() if result.status == "failed"]
        texts: dict[str, str] = {result.room: "\n".join((result.text or "", *result.evidence)) for result in failed}
        findings = causes_of(texts, walk.facts.get(name)) if texts else ()
        if findings:
            walk.run.write(f"findings/{name}.json", [finding.model_dump() for finding in findings])
