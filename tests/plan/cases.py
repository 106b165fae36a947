"""The host cases: one TOML file each in tests/cases/hosts, with a host and the expected plan. A new case is one new file.

about     what the case shows
what_if   the host as a text for --what-if; [facts] overrides it (a library at "" is absent)
become    true if the inventory lets installation become root
settings  the settings that differ from the defaults
expect    stack: dotted paths and values ("" is None); or refused: the rule of the first refusal, and nearest: policy values;
          opens: a part of the nearest change's text;
          rejected: rules that refuse better candidates; warnings: rules that warn; assumed: assumptions; reasons: parts of reasons' texts
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan, Resolution
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if

FOLDER = Path(__file__).resolve().parents[1] / "cases" / "hosts"


@dataclass(frozen=True)
class Case:
    name: str
    facts: HostFacts
    settings: Settings
    become: bool
    expect: dict[str, Any]

    def plan(self) -> Plan:
        become = (self.name,) if self.become else ()
        return choose_stacks({self.name: self.facts}, {self.name: self.settings}, become=become)

    def resolution(self) -> Resolution:
        return self.plan().classes[0]


def overridden(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        deeper = isinstance(value, dict) and isinstance(under, dict) and key not in {"unknown", "libraries"}
        merged[key] = overridden(under, value) if deeper and under is not None else value
    return merged


def load(path: Path) -> Case:
    text = tomllib.loads(path.read_text(encoding="utf-8"))
    described = parse_what_if(text.get("what_if", "")).model_dump()
    facts = overridden({**described, "host": path.stem}, text.get("facts", {}))
    facts["libraries"] = {name: where or None for name, where in facts["libraries"].items()}
    settings = Settings.model_validate(text.get("settings", {}))
    return Case(path.stem, HostFacts.model_validate(facts), settings, text.get("become", False), text["expect"])


CASES = [load(path) for path in sorted(FOLDER.glob("*.toml"))]
