"""The endpoint of a host or a gateway: where its key is, and the commands that send it a prompt."""

import json
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from provision.core import install_paths
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import GatewayRecord, ServeRecord
from provision.fleet.inventory.addresses import EVERYWHERE, OUTSIDE, address_from, with_port

PROMPT = "Hello"
TOKENS = 32
QUESTIONS: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": TOKENS},
    "completions": {"prompt": PROMPT, "max_tokens": TOKENS},
    "embeddings": {"input": PROMPT},
    "rerank": {"query": PROMPT, "documents": ["Good morning", "Good night"]},
}
"""A short request by its route."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def prefix_of(host: Host | None, facts: HostFacts | None) -> str | None:
    """Return the installation prefix on a host: from the inventory, from the probe, or the default."""
    if facts and facts.installed and not (host and host.settings.prefix):
        return facts.installed.prefix
    if host and (host.settings.prefix or host.connection.become):
        return install_paths.prefix_of(host, uid=0, home="")
    if host and facts and facts.user.uid is not None and facts.user.home:
        return install_paths.prefix_of(host, uid=facts.user.uid, home=facts.user.home)
    return None


def key_file(host: Host | None, prefix: str | None) -> str | None:
    """Return the file on the host with the API key, where one is required."""
    return f"{prefix}/etc/service.env" if host and prefix and host.settings.api_key else None


def names_of(model: str, adapters: Sequence[str]) -> str:
    """Return the names that requests may give as their model, as a part of a sentence."""
    return f"{model} with {'adapters' if len(adapters) > 1 else 'adapter'} {', '.join(adapters)}" if adapters else model


def chat_commands(serve: ServeRecord, file: str | None, host: Host, user: str | None) -> tuple[str, ...]:
    """Return commands that send a short prompt to a host's service: that of a tunnel, where one is needed, and the request.

    The key is read from its file on the host at that moment. There are none where the model is not known.
    """
    if serve.endpoint is None or serve.model is None:
        return ()
    key = _on_host(host, user, "sed -n s/^VLLM_API_KEY=//p", file) if file is not None else None
    endpoint, address = serve.endpoint, address_from(OUTSIDE, host, host.settings.bind)
    if address and host.settings.bind in EVERYWHERE:
        endpoint = f"http://{with_port(address, host.settings.port)}/v1"
    curl, parts = _request(endpoint, serve.model, key, question=question_of(serve)), urlsplit(endpoint)
    if host.connection.kind != "ssh" or parts.hostname not in LOOPBACK:
        return (curl,)
    return (shlex.join([*host.connection.ssh_words(), "-f", "-N", "-L", f"{parts.port}:{parts.netloc}"]), curl)


def gateway_commands(gateway: GatewayRecord, host: Host, user: str | None, *, question: str) -> tuple[str, ...]:
    """Return commands that send a short prompt through a gateway with the key of its first client; none without a model or a client.

    One that copies a self-signed certificate comes first. `question` is what the first model is asked, by its route.
    """
    if not gateway.models or not gateway.clients:
        return ()
    key = _on_host(host, user, f'sed -n "s/ {gateway.clients[0]}$//p"', gateway.key_file)
    model = next(iter(gateway.models))
    if not gateway.self_signed:
        return (_request(gateway.endpoint, model, key, question=question),)
    copy = shlex.quote(f"{host.name}.pem")
    certificate = str(PurePosixPath(gateway.key_file).with_name("certificate.pem"))
    fetch = _on_host(host, user, "openssl x509 -in", certificate)
    return (f"{fetch} > {copy}", _request(gateway.endpoint, model, key, question=question, options=f"--cacert {copy} "))


def question_of(*served: ServeRecord) -> str:
    """Return the route of what a model is asked, by its hosts: a chat where all of them answer one."""
    tasks = {record.task for record in served}
    if "generate" in tasks or not tasks:
        return "chat/completions" if all(record.chat is not False for record in served) else "completions"
    return "embeddings" if "embed" in tasks else "rerank"


def _request(endpoint: str, model: str, key: str | None, *, question: str, options: str = "") -> str:
    """Return the request; `key` is the command that prints the key, which goes through a pipe, since others see the arguments of commands."""
    body = json.dumps({"model": model, **QUESTIONS[question]}, separators=(",", ":"))
    url = f"{endpoint}/{question}"
    piped, header = (f"{key} | sed 's/^/Authorization: Bearer /' | ", "-H @- ") if key else ("", "")
    curl = f"curl -sS --noproxy '*' {options}{shlex.quote(url)}"
    return f"{piped}{curl} {header}-H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _on_host(host: Host, user: str | None, words: str, file: str) -> str:
    """Return a command that reads a file of a host, with sudo where the login may not."""
    sudo = "sudo " if host.connection.become or (user not in (None, "root") and file.startswith("/opt/")) else ""
    command = f"{sudo}{words} {shlex.quote(file)}"
    return (
        f"{shlex.join(host.connection.ssh_words())} {shlex.quote(command)}"
        if host.connection.kind == "ssh"
        else command
    )
