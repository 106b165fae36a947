"""Booted hosts in the state of hosts that serve, with a stub engine in place of vLLM."""

import json
from pathlib import Path

from tests.features.gateway.stub_engine import __file__ as stub_file
from tests.fleet.hosts import FleetHost


def serve_at(host: FleetHost, port: int) -> None:
    """Let a host report the port at which it serves."""
    unit = {"supervisor": "systemd", "unit": "stub.service"}
    state = {"readiness": {"served_name": "stub", "host": host.address, "port": port, **unit}}
    host.sh(f"printf '%s' '{json.dumps(state)}' >/opt/firstlight/state.json")


def make_serving(host: FleetHost) -> None:
    """Give a host the state of a serving host, with a stub engine."""
    host.sh(
        "mkdir -p /opt/firstlight/etc && cd /opt/firstlight && umask 077 && printf 'firstlight 1\\n' >.firstlight && "
        f"printf 'VLLM_API_KEY=key-of-{host.name}\\n' >etc/service.env; useradd --system --shell /usr/sbin/nologin firstlight; umask 022; "
        "chmod 755 . etc; mkdir -p current/bin logs; install -d -o firstlight run; ln -s /usr/bin/python3 current/bin/python"
    )
    serve_at(host, 8000)
    words = f"/usr/bin/python3 /root/stub_engine.py {host.name} {host.address} 8000 key-of-{host.name} /run/stub"
    (host.machine.root / "root/stub_engine.py").write_text(Path(stub_file).read_text())
    (host.machine.root / "etc/systemd/system/stub.service").write_text(f"[Service]\nExecStart={words}\n")
    host.sh("systemctl daemon-reload; systemctl start stub")
