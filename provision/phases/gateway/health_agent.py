"""The health agent of a serving host as it is to be: its program, its unit, the variables of its playbook. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

from provision.core.install_paths import InstallPaths
from provision.core.tables import own_table
from provision.core.zipapp import pack_zipapp
from provision.fleet.inventory.addresses import listened_on, own_address
from provision.phases.gateway.backends import Served
from provision.phases.serve.tools import ENGINE_TABLE

UNIT = "firstlight-health-agent.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
PROGRAM = "health.pyz"
FOLDER = "health-agent"
_SOURCES = Path(__file__).parent / "onhost" / "health"


def program() -> bytes:
    """Return the agent as one file; its table becomes JSON, since Python before 3.11 reads no TOML."""
    files = {f"health/{path.name}": path.read_bytes() for path in sorted(_SOURCES.glob("*.py"))}
    tables = (_SOURCES / "health.toml", ENGINE_TABLE)
    files |= {f"health/{path.stem}.json": json.dumps(own_table(path)).encode() for path in tables}
    return pack_zipapp(files, main="health.agent:main()")


def unit_text(served: Served, paths: InstallPaths, port: int) -> str:
    """Return the text of the agent's unit.

    Args:
        served: What the host serves, with the unit that serves it.
        paths: Where its installation is.
        port: Port that the agent listens on, at the address of the server.
    """
    bind = listened_on(served.bind)
    return Template(Path(__file__).with_name(UNIT).read_text(encoding="utf-8")).substitute(
        prefix=paths.prefix,
        user=paths.owner,
        unit=served.unit,
        listen=bind,
        port=port,
        engine_address=own_address(bind),
        engine_port=served.port,
    )


def variables(paths: InstallPaths, unit: str, served: Served, port: int, program: Path) -> dict[str, Any]:
    """Return the variables of the playbook; `program` is the agent's program on the controller."""
    bind = served.bind.strip("[]")
    return {
        **paths.ansible_vars(),
        "firstlight_health_agent": {
            "program": str(program),
            "unit": unit,
            "unit_path": UNIT_PATH,
            "address": own_address(bind),
            "port": port,
        },
    }
