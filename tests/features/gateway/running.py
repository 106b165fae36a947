"""A real HAProxy with rendered files, and stub engines, on loopback addresses of this machine."""

import contextlib
import csv
import getpass
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provision.core.models.settings import Settings
from provision.features.gateway.backends import Backend, Gateway
from provision.features.gateway.haproxy import CERTIFICATE, CONFIG, TRAFFIC_PROGRAM, render, unit_text
from provision.features.gateway.traffic import HostTraffic, Traffic, command_of, parse
from provision.features.watchdog.health_agent import program
from tests import required
from tests.waiting import PATIENCE_S, wait_until

STUB = Path(__file__).with_name("stub_engine.py")
KEY = "sk-client-one"
AGENT = "firstlight-health-agent"


@dataclass
class Answer:
    """The answer to a request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def host(self) -> str:
        """The stub that answered a chat."""
        return str(self.document["choices"][0]["message"]["content"])


def free_port(address: str) -> int:
    """Return an unused port."""
    with socket.create_server((address, 0)) as server:
        return int(server.getsockname()[1])


def ask(at: tuple[str, int], method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """Send one request on a new connection."""
    connection = http.client.HTTPConnection(*at, timeout=PATIENCE_S)
    try:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


@dataclass
class Stub:
    """One stub engine."""

    backend: Backend
    process: subprocess.Popen[bytes]
    processes: Path | None = None
    """File with its process numbers, the engine's last, where that is a process of its own."""
    agent: subprocess.Popen[bytes] | None = None

    def signal_engine(self, number: signal.Signals) -> None:
        """Send a signal to the engine's process, where that is one of its own."""
        if self.processes is not None:
            os.kill(int(self.processes.read_text().split()[-1]), number)

    @property
    def at(self) -> tuple[str, int]:
        """Return its address."""
        return self.backend.address, self.backend.port

    def restart(self) -> None:
        """End it and start it anew, as a release is switched; returns when it listens."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process = start_stub(self.backend, self.processes)
        wait_until(lambda: self.seen() == [], f"{self.backend.name} never listens")

    def mode(self, mode: str) -> None:
        """Change its behaviour."""
        assert ask(self.at, "POST", "/stub", {"mode": mode}).status == 200

    @contextmanager
    def in_mode(self, mode: str) -> Iterator[None]:
        """Change its behaviour for a while."""
        self.mode(mode)
        try:
            yield
        finally:
            self.mode("ok")

    def used(self, usage: str) -> None:
        """Let it have counted tokens of clients; see `usage.lines` of the plug-in."""
        assert ask(self.at, "POST", "/stub/usage", {"usage": usage}).status == 200

    def step(self, tokens: int = 1) -> None:
        """Let it send so many tokens."""
        for _ in range(tokens):
            ask(self.at, "POST", "/stub/step", {})

    def seen(self, *, probes: bool = False) -> list[dict[str, Any]]:
        """Return the requests of clients that reached it, or those of the gateway itself and of the health agent."""
        found: list[dict[str, Any]] = ask(self.at, "GET", "/stub").document["seen"]
        return [
            one
            for one in found
            if (one["headers"].get("host") == "gateway" or one["headers"].get("user-agent") == AGENT) is probes
        ]


@dataclass
class Site:
    """A gateway and its stubs."""

    folder: Path
    gateway: Gateway
    stubs: dict[str, Stub]
    process: subprocess.Popen[bytes]
    digest: str = ""

    @property
    def at(self) -> tuple[str, int]:
        """Return its address."""
        return self.gateway.bind, self.gateway.settings.gateway_port

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = KEY, **headers: str) -> Answer:
        """Send one request as a client."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Authorization": f"Bearer {key}"} if key else {}
        return ask(self.at, method, path, body, sent)

    def chat(self, model: str = "m", **more: Any) -> Answer:
        """Send a chat request; the content of the answer is the stub's name."""
        return self.ask("POST", "/v1/chat/completions", {"messages": [], "model": model, **more})

    def tokens(self, model: str = "m") -> Iterator[str]:
        """Yield the tokens of a stream as they arrive, then `end`."""
        connection = http.client.HTTPConnection(*self.at, timeout=PATIENCE_S)
        body = json.dumps({"messages": [], "model": model, "stream": True})
        connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
        response = connection.getresponse()
        for line in iter(response.readline, b""):
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])["choices"][0]["delta"]["content"]
            elif line.startswith(b"data: "):
                yield "end"
        connection.close()

    def begin_stream(self, name: str) -> Iterator[str]:
        """Return a stream of which the only host in traffic has sent one token; it sends the others when its stub is stepped."""
        stub = self.stubs[name]
        stub.mode("stepwise")
        stub.step()
        stream = self.tokens(stub.backend.model)
        assert next(stream) == "0 "
        return stream

    def admin(self, command: str, name: str = "admin.sock") -> str:
        """Return the answer of a socket of HAProxy."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"{self.gateway.run_folder}/{name}")
            connection.sendall(f"{command}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def state(self, host: str) -> str:
        """Return HAProxy's state of a host, without its count of probes: `UP 1/2` after one late probe is still up."""
        models = range(len(self.gateway.models()))
        return next(row["status"].split()[0] for number in models if (row := self.row(f"model-{number}", host)))

    def row(self, proxy: str, host: str) -> dict[str, str]:
        """Return HAProxy's figures of a host; empty if the backend does not have it."""
        rows = csv.DictReader(io.StringIO(self.admin("show stat").removeprefix("# ")))
        return next((row for row in rows if (row["pxname"], row["svname"]) == (proxy, host)), {})

    def host(self, name: str) -> HostTraffic:
        """Return what the gateway says of a host. Raises StopIteration where it does not know it."""
        return next(one for one in self.traffic().hosts if one.host == name)

    def wait(self, host: str, state: str) -> None:
        """Wait until a host has a state."""
        wait_until(lambda: self.state(host) == state, f"{host} is never {state}")

    def traffic(self, **wish: Any) -> Traffic:
        """Drain hosts, take them back or give them shares as a run does over SSH; the figures after it."""
        request: dict[str, Any] = {"drain": [], "ready": [], "by": "operator", "canary": None}
        command = command_of(sys.executable, f"{self.folder}/gateway", request | wish)
        return parse("gate", subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout)

    def restart_agent(self, name: str) -> None:
        """End the health agent of a host and start it anew."""
        stub = self.stubs[name]
        assert stub.agent is not None
        stub.agent.kill()
        stub.agent.wait(PATIENCE_S)
        stub.agent = start_agent(self.folder, stub)

    def reload(self, gateway: Gateway) -> None:
        """Load other files as systemd's reload does; returns when they are in use."""
        self.gateway = gateway
        self.write()
        # The master loses a signal that comes while it ends an earlier reload, and a second one would begin a reload that nobody waits for.
        wait_until(self._master_answers, "HAProxy's master never answers")
        self.process.send_signal(signal.SIGUSR2)
        wait_until(self._runs_new_files, "the new files are never used")
        wait_until(self._master_answers, "HAProxy's master never answers again")

    def write(self) -> None:
        """Write its files where HAProxy reads them, with the hosts drained that are drained."""
        files = render(self.gateway)
        current = self.folder / "gateway/current"
        current.mkdir(parents=True, exist_ok=True)
        for name, text in files.texts.items():
            (current / name).write_text(text)
        subprocess.run([sys.executable, current / TRAFFIC_PROGRAM, "remember"], check=True)
        self.digest = files.digest

    def start(self) -> None:
        """Start HAProxy as its unit does; returns when its master answers, which may be later than its worker."""
        words = ["haproxy", "-W", "-S", f"{self.folder}/master.sock,mode,600"]
        with (self.folder / "haproxy.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*words, "-f", str(self.folder / "gateway/current" / CONFIG)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **unit_variables()},
            )
        wait_until(self._master_answers, "HAProxy's master never answers")

    def stop(self) -> None:
        """End HAProxy."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)

    def _master_answers(self) -> bool:
        return "worker" in self.admin("show proc", "master.sock")

    def _runs_new_files(self) -> bool:
        return self.digest in self.admin("get var proc.firstlight")


@contextmanager
def under_load(site: Site) -> Iterator[list[int]]:
    """Let four clients send requests one after another; the statuses of their answers so far."""
    done, statuses = threading.Event(), list[int]()

    def send() -> None:
        while not done.is_set():
            statuses.append(site.chat().status)

    clients = [threading.Thread(target=send) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        yield statuses
    finally:
        done.set()
        for client in clients:
            client.join()


def unit_variables() -> dict[str, str]:
    """Return the environment variables that the unit sets for HAProxy."""
    lines = (line.partition("=") for line in unit_text("/opt/firstlight").splitlines())
    return dict(text.split("=", 1) for name, _, text in lines if name == "Environment")


def start_stub(backend: Backend, processes: Path | None = None) -> subprocess.Popen[bytes]:
    """Start the process of a stub engine."""
    words = [sys.executable, str(STUB), backend.name, backend.address, str(backend.port), str(backend.key)]
    return subprocess.Popen([*words, *([str(processes)] if processes else [])], stdin=subprocess.DEVNULL)


def start_agent(folder: Path, stub: Stub, request: Path | None = None) -> subprocess.Popen[bytes]:
    """Start the health agent of a stub engine; with a file for requests it has a watchdog."""
    path = folder / f"{stub.backend.name}.pyz"
    path.write_bytes(program())
    address, port = stub.at
    words = ["--listen", address, "--port", str(stub.backend.health_port), "--unit", "stub"]
    words += ["--engine-address", address, "--engine-port", str(port), "--processes", str(stub.processes)]
    words += ["--request", str(request)] if request else []
    environment = {**os.environ, "VLLM_API_KEY": str(stub.backend.key)}
    return subprocess.Popen([sys.executable, "-I", str(path), *words], stdin=subprocess.DEVNULL, env=environment)


def stub(name: str, address: str, model: str = "m", *, folder: Path | None = None, request: Path | None = None) -> Stub:
    """Start a stub engine; with a folder for its files also a health agent, and a process that computes."""
    backend = Backend(model, address, free_port(address), f"key-of-{name}", name=name, address=address)
    if folder is None:
        started = Stub(backend, start_stub(backend))
    else:
        backend = replace(backend, health_port=free_port(address))
        processes = folder / f"{name}.processes"
        started = Stub(backend, start_stub(backend, processes), processes)
        started.agent = start_agent(folder, started, request)
    wait_until(lambda: started.seen() is not None, f"{name} never listens")
    return started


@contextmanager
def running(
    folder: Path, models: dict[str, str], *, certificate: str | None = None, agents: bool = False, **settings: Any
) -> Iterator[Site]:
    """Run a gateway and stub engines; all of it is removed at the end. Without HAProxy the test is skipped.

    Args:
        folder: The folder of its files.
        models: The model of each stub by the stub's name.
        certificate: Certificate and key; the gateway then uses TLS.
        agents: Whether each stub has a health agent.
        **settings: Settings `gateway_*`, and fields of `Gateway`, that replace the defaults.
    """
    required.program("haproxy")
    stubs = {
        name: stub(name, f"127.0.9.{number}", model, folder=folder if agents else None)
        for number, (name, model) in enumerate(models.items(), 2)
    }
    address = "127.0.9.1"
    gateway = Gateway(
        settings=Settings.model_validate(
            {
                "gateway_bind": address,
                "gateway_port": free_port(address),
                "gateway_tls": certificate is not None,
                "gateway_host_requests": 64,
            }
            | {name: value for name, value in settings.items() if name.startswith("gateway_")}
        ),
        backends=tuple(one.backend for one in stubs.values()),
        clients={"one": KEY, "two": "sk-client-two"},
        run_folder=str(folder),
        folder=f"{folder}/gateway",
        account=getpass.getuser(),
        probe_interval_s=1,
        probe_patience_s=10,
    )
    gateway = replace(gateway, **{name: one for name, one in settings.items() if not name.startswith("gateway_")})
    if certificate is not None:
        (folder / "gateway/current").mkdir(parents=True)
        (folder / "gateway/current" / CERTIFICATE).write_text(certificate)
    site = Site(folder, gateway, stubs, subprocess.Popen(["true"]))
    site.write()
    site.start()
    try:
        for name in stubs:
            site.wait(name, "UP")
        yield site
    finally:
        for one in stubs.values():
            with contextlib.suppress(ProcessLookupError):
                one.signal_engine(signal.SIGCONT)
        processes = [site.process, *(one.process for one in stubs.values())]
        processes += [one.agent for one in stubs.values() if one.agent is not None]
        for process in processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in processes:
            process.wait(PATIENCE_S)
