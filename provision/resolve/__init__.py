"""The plan: a Stack for each class of hosts, chosen by rules from the catalog alone."""

from provision.resolve.document import to_json
from provision.resolve.explain import render
from provision.resolve.plan import plan
from provision.resolve.recorded import read_facts
from provision.resolve.whatif import parse_what_if

__all__ = ["parse_what_if", "plan", "read_facts", "render", "to_json"]
