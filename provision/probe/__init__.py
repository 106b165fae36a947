"""Probe: what is this host, really? One script, one round trip, pure parsers."""

from provision.probe.assemble import parse
from provision.probe.reading import probe, script

__all__ = ["parse", "probe", "script"]
