"""The contract of the served API, asked of a gateway as its clients ask it: on its own host, at its address, with a client's key.

`verify/serving/contract.py` asks there. Keys reach it on its standard input alone.
"""

import base64
import json
import shlex
import time
from functools import cache
from typing import Any, Literal

from provision.core.models.inventory import Host
from provision.core.models.records import CheckRecord
from provision.core.tables import read_table
from provision.core.zipapp import pack_zipapp
from provision.features.gateway.backends import Gateway
from provision.features.gateway.draining import python_of
from provision.features.gateway.haproxy import CERTIFICATE
from provision.fleet.inventory.addresses import own_address
from provision.fleet.ssh import Completed, Session
from provision.phases.verify.tool import SOURCE
from provision.report.layout import count
from verify.records import first_few

CHECK = "gateway.contract"
MODULES = (
    "__init__",
    "tables",
    "serving/__init__",
    "serving/client",
    "serving/contract",
    "serving/expectations",
)
BOOT = """
import base64, runpy, sys, tempfile
with tempfile.NamedTemporaryFile(suffix=".pyz") as file:
    file.write(base64.b64decode(sys.stdin.readline()))
    file.flush()
    runpy.run_path(file.name, run_name="__main__")
"""
MODEL_S = 300.0
"""Seconds for one model: the budget of data/contract.toml, and a silence each of the gateway and of the hosts behind it."""
Status = Literal["ok", "warn", "fail", "skip", "error"]


@cache
def program() -> bytes:
    """Return the questions as one file, for Python 3.8 and later."""
    entries = {f"verify/{name}.py": (SOURCE / f"{name}.py").read_bytes() for name in MODULES}
    table = json.dumps(read_table(SOURCE / "data/contract.toml")).encode()
    return pack_zipapp({**entries, "verify/data/contract.json": table}, main="verify.serving.contract:main()")


def ask(session: Session, host: Host, gateway: Gateway) -> CheckRecord:
    """Ask a gateway, and return the record of the check. What its hosts answer differently themselves is not judged.

    Raises RemoteCommandError where it did not end in time, and TransportError where the host cannot be reached.
    """
    if (most := gateway.settings.gateway_requests_per_minute) is not None:
        text = f"not tested: firstlight_gateway_requests_per_minute lets a client send {most} requests"
        return record(host, "skip", text)
    if all(gateway.budgets().values()):
        return record(host, "skip", "not tested: it would use up the tokens of a client, and each has a budget")
    started = time.monotonic()
    command = f"exec {shlex.quote(python_of(host))} -I -c {shlex.quote(BOOT)}"
    stdin = f"{base64.b64encode(program()).decode()}\n{json.dumps(request_of(gateway))}"
    done = session.run(command, stdin=stdin, timeout_s=deadline_s(gateway), root=True)
    return evaluate(host, done).model_copy(update={"seconds": round(time.monotonic() - started, 3)})


def deadline_s(gateway: Gateway) -> float:
    """Return the seconds after which a gateway is given up."""
    return MODEL_S * len(gateway.models())


def request_of(gateway: Gateway) -> dict[str, Any]:
    """Return what the program reads, of a gateway with a client without a budget. It holds keys."""
    certificate = f"{gateway.folder}/current/{CERTIFICATE}" if gateway.settings.gateway_tls else None
    models = {
        model: [{"host": one.address, "port": one.port, "key": one.key, "task": one.task} for one in hosts]
        for model, hosts in gateway.models().items()
    }
    client = next(name for name, budget in gateway.budgets().items() if not budget)
    at = {"host": own_address(gateway.bind), "port": gateway.settings.gateway_port, "certificate": certificate}
    return {"gateway": at, "key": gateway.clients[client], "models": models}


def evaluate(host: Host, done: Completed) -> CheckRecord:
    """Return the record of what the program found."""
    try:
        found: dict[str, Any] = json.loads(done.stdout)
        asked, judged_not = {*found["asked"]}, {text.partition(":")[0] for text in found["inherited"]}
    except (ValueError, LookupError, TypeError):
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        return record(
            host, "error", f"the gateway could not be queried: {last}", remedy="see that its Python is 3.8 or later"
        )
    if found["deviations"]:
        text = f"through the gateway: {first_few(found['deviations'], 3, more='; and')}"
        remedy = "its hosts answer correctly: ./firstlight gateway sets it up again; its log: journalctl -u firstlight-gateway"
        return record(host, "fail", text, found, remedy)
    if found["silent"]:
        text = f"a request through the gateway waited, and so did one to its host: {found['silent']}"
        return record(host, "warn", text, found, "check again when fewer requests wait: ./firstlight gateway status")
    parts = [f"{count(len(asked), 'kind')} of requests answered correctly through the gateway"] if asked else []
    if judged_not:
        kinds = f"{count(len(judged_not), 'kind')} of requests"
        parts.append(f"{kinds} not evaluated through it: its hosts themselves answer incorrectly")
    if found["late"]:
        parts.append(f"not tested in time: {', '.join(found['late'])}")
    return record(host, "ok" if asked else "skip", "; ".join(parts), found)


def record(host: Host, status: Status, text: str, evidence: Any = None, remedy: str | None = None) -> CheckRecord:
    """Return the record of the check."""
    return CheckRecord(
        id=CHECK, family="gateway", status=status, host=host.name, reason=text, evidence=evidence, remedy=remedy
    )
