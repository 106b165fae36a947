"""Commands that send a prompt: OpenSSH itself says what those for a remote host connect to, and a server what it is asked."""

import json
import shlex
import subprocess
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.inventory import Connection
from provision.fleet.inventory.connections import connection_of
from provision.fleet.inventory.ssh_config import parse
from provision.fleet.ssh.openssh import unattended_options
from provision.report.endpoint import chat_commands
from provision.report.next_steps import command_lines
from provision.report.screen import first_screen_of
from tests.report.sample import Folder, host, served
from tests.waiting import PATIENCE_S

LIMITS = {"serveraliveinterval", "stricthostkeychecking", "clearallforwardings"}
"""What a program needs, and a person does not."""
CONFIGURATION = """Host gate
  HostName 203.0.113.9
  Port 2022
  User jump
  IdentityFile /keys/gate
Host one
  HostName 192.0.2.9
  ProxyJump gate
  HostKeyAlias first
  UserKnownHostsFile "/known hosts/a"
"""


def asked(words: Sequence[str]) -> dict[str, list[str]]:
    """Return what OpenSSH would do with a command line."""
    answer = subprocess.run(
        [words[0], "-G", *words[1:]], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return {key: values for key, values in parse(answer.stdout).items() if key not in LIMITS | {"host"}}


def programs_of(text: str, folder: Path) -> str:
    """Let a shell run a command whose programs only write down how they were called; return that."""
    for name in ("ssh", "curl"):
        program = folder / name
        first = "cat >/dev/null\n" if name == "curl" else ""  # what comes before it in a pipe has ended then
        program.write_text(f"#!/bin/sh\n{first}printf '%s\\n' {name} \"$@\" >> called\n")
        program.chmod(0o755)
    (folder / "called").unlink(missing_ok=True)
    path = f"{folder}:/usr/bin:/bin"
    subprocess.run(["sh", "-c", text], cwd=folder, env={"PATH": path}, stdin=subprocess.DEVNULL, check=True)
    return (folder / "called").read_text()


def connection(folder: Path, **variables: Any) -> Connection:
    (folder / "config").write_text(CONFIGURATION)
    (folder / "key").touch()
    return connection_of("h", {"ansible_ssh_common_args": f"-F {folder / 'config'}"} | variables, folder)


@pytest.mark.parametrize(
    "variables",
    [
        {"ansible_host": "192.0.2.7"},
        {"ansible_host": "192.0.2.7", "ansible_port": 2222, "ansible_user": "ops"},
        {"ansible_host": "192.0.2.7", "ansible_ssh_private_key_file": "key"},
        {"ansible_host": "one", "ansible_user": "ops"},
        {"ansible_host": "192.0.2.7", "ansible_ssh_extra_args": "-J hop@gate -o IdentitiesOnly=yes"},
        {"ansible_host": "192.0.2.7", "ansible_ssh_extra_args": "-o 'ProxyCommand=nc -X 5 %h %p'"},
        {"ansible_host": "2001:db8::7", "ansible_ssh_extra_args": "-o StrictHostKeyChecking=accept-new"},
    ],
    ids=["defaults", "port and user", "key", "configuration", "jump host", "proxy", "IPv6"],
)
def test_a_printed_command_connects_as_the_product_does(variables: dict[str, Any], tmp_path: Path) -> None:
    found = connection(tmp_path, **variables)
    typed = found.ssh_words()
    assert asked(typed) == asked(found.ssh_words(*unattended_options(found)))
    tunnel, _ = chat_commands(served(), None, host("h").model_copy(update={"connection": found}), None)
    assert shlex.split(tunnel) == [*typed, "-f", "-N", "-L", "8000:127.0.0.1:8000"]


def test_the_key_of_the_api_is_read_through_the_same_connection(tmp_path: Path) -> None:
    found = connection(tmp_path, ansible_host="one", ansible_user="ops", ansible_become=True)
    there = host("h").model_copy(update={"connection": found})
    tunnel, curl = chat_commands(served(), "/opt/firstlight/etc/service.env", there, "ops")
    read = shlex.quote("sudo sed -n s/^VLLM_API_KEY=//p /opt/firstlight/etc/service.env")
    assert curl.startswith(f"{shlex.join(found.ssh_words())} {read} | ")
    called = programs_of(curl, tmp_path)
    assert called.startswith("\n".join(shlex.split(shlex.join(found.ssh_words()))))
    for entry in (tunnel, curl):
        assert programs_of("\n".join(command_lines(entry)), tmp_path) == programs_of(entry, tmp_path), (
            "broken over lines"
        )


@pytest.mark.parametrize(
    ("bind", "address", "shown"), [("0.0.0.0", "192.0.2.7", "192.0.2.7"), ("::", "2001:db8::7", "[2001:db8::7]")]
)
def test_a_service_on_all_addresses_is_asked_at_that_of_its_host(
    bind: str, address: str, shown: str, tmp_path: Path
) -> None:
    found = connection(tmp_path, ansible_host=address)
    there = host("h", bind=bind, expose=True).model_copy(update={"connection": found})
    (curl,) = chat_commands(served(), None, there, None)
    assert shlex.quote(f"http://{shown}:8000/v1/chat/completions") in curl


def test_a_service_on_all_ipv4_addresses_of_a_host_with_one_of_ipv6_is_asked_through_a_tunnel(tmp_path: Path) -> None:
    there = host("h", bind="0.0.0.0", expose=True)
    there = there.model_copy(update={"connection": connection(tmp_path, ansible_host="2001:db8::7")})
    tunnel, curl = chat_commands(served(), None, there, None)
    assert tunnel.endswith(" -L 8000:127.0.0.1:8000")
    assert "http://127.0.0.1:8000/v1/" in curl


def test_a_tunnel_leads_to_a_loopback_address_of_ipv6_too(tmp_path: Path) -> None:
    record = served().model_copy(update={"endpoint": "http://[::1]:8000/v1"})
    tunnel, curl = chat_commands(record, None, host("h", bind="::1"), None)
    assert tunnel.endswith(" -L '8000:[::1]:8000'")
    assert "http://[::1]:8000/v1/" in curl


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("model", ["builtin-1", "meta-llama/Llama-3.3-70B-Instruct", "O'Hara", 'a,"b'])
def test_a_printed_request_fits_its_lines_and_asks_the_same(model: str, columns: int, tmp_path: Path) -> None:
    key = "/opt/firstlight/etc/service.env"
    (call,) = chat_commands(served().model_copy(update={"model": model}), key, host("h", local=True), None)
    lines = command_lines(call, indent=" " * 11, columns=columns)
    assert max(map(len, lines)) <= columns
    assert programs_of("\n".join(lines), tmp_path) == programs_of(call, tmp_path)


def test_no_password_is_printed(tmp_path: Path) -> None:
    found = connection(
        tmp_path, ansible_host="192.0.2.7", ansible_password="swordfish-1", ansible_become_password="p-2"
    )
    assert "swordfish-1" not in shlex.join(found.ssh_words())
    assert "p-2" not in shlex.join(found.ssh_words())


@pytest.mark.parametrize(
    ("proof", "path", "question"),
    [
        ({"chat": True}, "chat/completions", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}),
        ({"chat": False}, "completions", {"prompt": "Hello", "max_tokens": 32}),
        ({"chat": False, "task": "embed"}, "embeddings", {"input": "Hello"}),
        ({"chat": False, "task": "score"}, "rerank", {"query": "Hello", "documents": ["Good morning", "Good night"]}),
    ],
)
def test_a_command_pasted_from_the_first_screen_asks_the_model(
    proof: dict[str, Any], path: str, question: dict[str, Any], tmp_path: Path
) -> None:
    asked: list[tuple[str, str | None, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            self.send_response(200)
            self.end_headers()

    prefix = tmp_path / ("longer-than-most-" * 4)
    (prefix / "etc").mkdir(parents=True)
    (prefix / "etc/service.env").write_text("A=1\nVLLM_API_KEY=sesame\n")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        folder = Folder(tmp_path / "20261120T101500Z", [host("a", local=True, prefix=str(prefix))])
        folder.green("a")
        update = {"endpoint": f"http://127.0.0.1:{server.server_address[1]}/v1", "model": "O'Hara", **proof}
        folder.run.write("serve/a.json", served().model_copy(update=update))
        screen = first_screen_of(folder.text())
        lines = screen[screen.index("\nAsk ") : screen.index("\nAttention ")].replace("Ask", "   ", 1)
        assert all(line.endswith((" \\", "'\\")) for line in lines.strip().splitlines()[:-1]), "no break within quotes"
        subprocess.run(["sh", "-c", lines], check=True, timeout=PATIENCE_S)
    assert asked == [(f"/v1/{path}", "Bearer sesame", {"model": "O'Hara", **question})]
