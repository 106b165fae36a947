"""`chat`: a prompt goes to the endpoint of a host over its session, and the answer comes back as it is made."""

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from provision.core import features
from provision.core.errors import Exit, ServeError, UsageError
from provision.core.install_paths import InstallPaths
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.invocation import Invocation
from provision.fleet.inventory.addresses import own_address, with_port
from provision.fleet.ssh import Session, open_session
from provision.fleet.ssh.process import Channel
from provision.phases import serve as serve_phase
from provision.pipeline import CommandRequest
from provision.pipeline.commands import print_summary
from provision.pipeline.phases import PROBE
from provision.pipeline.runner import execute, read_inventory
from provision.run.rollback import readiness_of

PROGRAM = Path(serve_phase.__file__).parent / "onhost/chat/main.py"
VECTORS = {"embed": "embeddings", "score": "scores"}
"""What models make that answer no prompt, by their task."""
ANSWER_S = 330.0
"""Seconds without a part of an answer; the program on the host gives up before."""


def chat(
    request: CommandRequest, name: str | None, prompt: str | None, read: Callable[[], str | None], *, max_tokens: int
) -> int:
    """Print the answer of a host's model to a prompt, or to each one that is read, and return the exit code.

    Args:
        prompt: The prompt; None to read prompts.
        read: Returns the next prompt; None at the end.
        max_tokens: The longest answer.

    Raises:
        RemoteCommandError: sudo refused.
        ServeError: The host serves nothing, or does not answer.
        TransportError: The host cannot be reached any more.
        UsageError: The host is not in the inventory, or none is named of several.
    """
    typed = request.invocation
    host, prompt = choose(read_inventory(request).hosts, name, prompt, typed)
    outcome = execute(replace(request, limit=host.name), (PROBE,))
    if host.name not in outcome.result.facts:
        return print_summary(outcome)
    paths = outcome.result.install_paths[host.name]
    is_named = host.name == name
    endpoint, python = endpoint_at(host, outcome.result.facts[host.name], paths, typed, is_named=is_named)
    prompts = iter(read, None) if prompt is None else iter((prompt,))
    if prompt is None:
        sys.stderr.write(f"{endpoint['model'] or 'its first model'} at {endpoint['url']} on {host.name}; Ctrl-D ends\n")
    is_root = paths.root or host.is_gateway
    with closing(open_session(host)) as session, closing(start(session, python, root=is_root)) as channel:
        channel.writeline(json.dumps(endpoint))
        _converse(channel, host.name, prompts, max_tokens, typed)
    return Exit.OK


def start(session: Session, python: str, *, root: bool = False) -> Channel:
    """Start the program on the host. Raises RemoteCommandError if sudo refused."""
    session.run(":", root=root)  # a channel would end without sudo's reason
    command = f"exec {shlex.quote(python)} -I -c {shlex.quote(PROGRAM.read_text(encoding='utf-8'))}"
    return session.open_channel(command, root=root)


def choose(hosts: Sequence[Host], name: str | None, prompt: str | None, typed: Invocation) -> tuple[Host, str | None]:
    """Return the host that is asked, and the prompt.

    One word that is no host is the prompt, where one host or one gateway can be meant.

    Raises:
        UsageError: There is no such host, or none is named of several.
    """
    serving = {host.name: host for host in hosts if host.is_provisioned or host.is_gateway}
    if name in serving:
        return serving[name], prompt
    gateways = [host for host in serving.values() if host.is_gateway]
    likely = gateways or [*serving.values()]
    if len(likely) == 1 and (name is None or prompt is None):
        return likely[0], name
    text = f"the inventory has {len(serving)} hosts" if name is None else f"the inventory has no host `{name}`"
    hint = f"name one: {typed.on_inventory('chat', next(iter(serving), 'HOST'), 'PROMPT')}"
    raise UsageError(text, hint=hint)


def endpoint_at(
    host: Host, facts: HostFacts, paths: InstallPaths, typed: Invocation, *, is_named: bool
) -> tuple[dict[str, Any], str]:
    """Return what the program has to know of a host's own endpoint, or of its gateway, and the Python that runs it.

    Of a host that has both, its own one is asked where the user named the host (`is_named`), else its gateway.

    Raises:
        ServeError: There is neither.
    """
    gateway: tuple[dict[str, Any], str] | None = features.first("chat_endpoint", host)
    if gateway is not None and not is_named:
        return gateway
    readiness = readiness_of((facts.installed.state if facts.installed else None) or {})
    if readiness is not None and (made := VECTORS.get(readiness.get("task", ""))):
        raise ServeError(
            f"model `{readiness['served_name']}` on host `{host.name}` makes {made}, and no text",
            hint=f"`Ask` of its status is a request for them: {typed.suggest('status', hosts=host.name)}",
        )
    if readiness is not None and not readiness.get("headless"):
        service = facts.installed.service if facts.installed else None
        if service != "active" and "installed.service" not in facts.unknown:
            raise ServeError(
                f"the service of host `{host.name}` is {service or 'not running'}",
                hint=f"see why: {typed.suggest('doctor', hosts=host.name)}",
            )
        address = with_port(own_address(readiness["host"]), readiness["port"])
        key_file = f"{paths.prefix}/etc/service.env" if host.settings.api_key else None
        endpoint = {"url": f"http://{address}/v1", "model": readiness["served_name"], "key_file": key_file}
        return {**endpoint, "key_pattern": r"^VLLM_API_KEY=(\S+)$"}, f"{paths.prefix}/current/bin/python"
    if gateway is not None:
        return gateway
    if readiness is not None:
        raise ServeError(
            f"host `{host.name}` has a part of a model", hint="ask the first host of the model, or the gateway"
        )
    raise ServeError(
        f"host `{host.name}` serves nothing", hint=f"start it: {typed.suggest('provision', hosts=host.name)}"
    )


def _converse(channel: Channel, name: str, prompts: Iterable[str], max_tokens: int, typed: Invocation) -> None:
    """Ask each prompt with what was said before it, and print the answers."""
    messages: list[dict[str, str]] = []
    for prompt in prompts:
        if not prompt.strip():
            continue
        messages.append({"role": "user", "content": prompt})
        try:
            channel.writeline(json.dumps({"messages": messages, "max_tokens": max_tokens}))
        except OSError as error:
            raise ServeError(f"host `{name}`: the connection broke: {error}", hint="run it again") from None
        said = ""
        for kind, parts in groupby(_answer(channel, name, typed), key=itemgetter(0)):
            stream, start, end = (sys.stdout, "", "") if kind == "text" else (sys.stderr, f"[{kind}: ", "]\n")
            stream.write(start)
            for _, text in parts:
                stream.write(text)
                stream.flush()
                said += text if kind == "text" else ""
            stream.write(end)
        sys.stdout.write("\n")
        sys.stdout.flush()
        messages.append({"role": "assistant", "content": said})


def _answer(channel: Channel, name: str, typed: Invocation) -> Iterator[tuple[str, str]]:
    """Yield the parts of an answer with their kinds: `text`, and what is no part of it.

    Raises:
        ServeError: The server does not answer, answers with an error, or the program ended.
    """
    while True:
        line = channel.readline(timeout_s=ANSWER_S)
        try:
            part = json.loads(line)
        except ValueError:
            part = {"error": line or channel.error_text().rpartition("\n")[2] or "the connection broke"}
        if "error" in part:
            hint = f"see why: {typed.suggest('doctor', hosts=name)}"
            raise ServeError(f"host `{name}` gave no answer: {part['error']}", hint=hint)
        if "end" in part:
            return
        yield from part.items()
