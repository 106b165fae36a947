"""The phase `probe`: what a host is. One script, one round trip, pure parsers; and the evidence of a failure."""

from provision.phases.probe.assemble import parse
from provision.phases.probe.failure_evidence import Source, collect
from provision.phases.probe.reading import probe, script

__all__ = ["Source", "collect", "parse", "probe", "script"]
