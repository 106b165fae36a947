"""Probe: what is this host, really? One script, one round trip, pure parsers; and what it says of a failure."""

from provision.probe.assemble import parse
from provision.probe.evidence import Source, collect
from provision.probe.reading import probe, script

__all__ = ["Source", "collect", "parse", "probe", "script"]
