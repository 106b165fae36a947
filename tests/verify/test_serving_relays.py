"""Programs, sockets and rules that forward requests to an endpoint, from true command lines and the output of nft and iptables-save."""

import os
import socket
from dataclasses import replace
from typing import Any

import pytest

from verify.checks.serving.relays import RelayFacts, evaluate
from verify.serving.processes import ListeningSocket, Process, all_listeners
from verify.serving.service_control import units

SSHD = (
    22,
    ListeningSocket("0.0.0.0", (Process(38, 1, argv=("/usr/sbin/sshd", "-D"), executable="/usr/sbin/sshd"),)),
)
SOUND = RelayFacts(listeners=(SSHD,))
NGINX = "server {\n  listen 80;\n  location / { proxy_pass http://localhost:8000; }\n}\n"
SOCKET = """Id=relay.socket
Names=relay.socket
Listen=0.0.0.0:9000 (Stream)
Triggers=relay.service
ActiveState=active

ExecStart={ path=/usr/lib/systemd/systemd-socket-proxyd ; argv[]=/usr/lib/systemd/systemd-socket-proxyd 127.0.0.1:8000 ; ignore_errors=no ; pid=0 }
Id=relay.service
Names=relay.service
ActiveState=inactive
"""


def listener(*argv: str, executable: str = "") -> tuple[int, ListeningSocket]:
    return 9000, ListeningSocket("0.0.0.0", (Process(66, 1, argv=argv, executable=executable),))


def relays(**changes: Any) -> Any:
    return evaluate(replace(SOUND, **changes)).evidence["relays"]


def test_a_host_with_listeners_of_its_own_passes() -> None:
    outcome = evaluate(SOUND)
    assert (outcome.status, outcome.evidence["relays"]) == ("ok", [])
    assert "none of the 1 other listeners" in outcome.reason


@pytest.mark.parametrize(
    "argv",
    [
        ("socat", "TCP-LISTEN:9000,fork,reuseaddr", "TCP:127.0.0.1:8000"),
        ("ssh", "-N", "-L", "0.0.0.0:9000:localhost:8000", "root@here"),
        ("ncat", "-lk", "9000", "-c", "ncat 127.0.0.1 8000"),
        ("litellm", "--api_base", "http://[::1]:8000/v1"),
    ],
    ids=lambda argv: argv[0],
)
def test_a_program_that_names_the_endpoint_is_a_relay(argv: tuple[str, ...]) -> None:
    outcome = evaluate(replace(SOUND, listeners=(SSHD, listener(*argv))))
    assert outcome.status == "warn"
    assert outcome.reason.endswith("(PID 66) listens on 0.0.0.0 port 9000 and forwards to port 8000")


def test_another_port_or_host_is_no_relay_and_an_endpoint_on_every_address_needs_none() -> None:
    for words in ("TCP:127.0.0.1:80001", "TCP:10.0.0.9:8000", "TCP:127.0.0.1:9001"):
        assert relays(listeners=(listener("socat", "TCP-LISTEN:9000", words),)) == []
    assert relays(listeners=(listener("socat", "TCP:127.0.0.1:8000"),), host="0.0.0.0") == []


def test_a_script_or_a_configuration_that_names_it_is_a_relay_of_the_program_that_listens() -> None:
    script = {"listeners": (listener("python3", "/srv/relay.py"),), "scripts": {66: 'connect(("127.0.0.1", 8000))'}}
    assert relays(**script) == ["python3 relay.py (PID 66) listens on 0.0.0.0 port 9000 and forwards to port 8000"]
    files = {"/etc/nginx/sites-enabled/default": NGINX}
    nginx = listener("nginx: master process", executable="/usr/sbin/nginx")
    assert relays(listeners=(nginx,), configurations=files)[0].endswith("by /etc/nginx/sites-enabled/default")
    assert relays(configurations=files) == [], "nothing reads it"


def test_a_socket_of_systemd_that_starts_a_relay_is_named() -> None:
    assert relays(loaded=units(SOCKET)) == [
        "relay.socket listens on 0.0.0.0:9000 (Stream) and starts relay.service, which forwards to port 8000"
    ]
    assert relays(loaded=units(SOCKET.replace(":8000", ":8080"))) == []


@pytest.mark.parametrize(
    ("rule", "is_relay"),
    [
        ("\t\ttcp dport 9000 dnat to 127.0.0.1:8000", True),
        ("\t\ttcp dport 9000 redirect to :8000", True),
        ("-A PREROUTING -p tcp -m tcp --dport 9000 -j DNAT --to-destination 127.0.0.1:8000", True),
        ("-A PREROUTING -p tcp -m tcp --dport 9000 -j REDIRECT --to-ports 8000", True),
        ("-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:8000", False),
        ("\t\ttcp dport 8000 drop", False),
    ],
)
def test_a_rule_of_the_kernel_that_redirects_to_it_is_named(rule: str, *, is_relay: bool) -> None:
    assert relays(rules=(rule,)) == (
        [f"a rule of the kernel forwards to port 8000: `{rule.strip()}`"] if is_relay else []
    )


def test_a_program_that_hands_out_the_installation_is_named_wherever_the_endpoint_listens() -> None:
    [by_argument, by_folder, own] = (
        listener("python3", "-m", "http.server", place) for place in ("/opt/firstlight/", "9000", "/srv")
    )
    text = "python3 -m http.server (PID 66) listens on 0.0.0.0 port 9000 and may hand out files of /opt/firstlight"
    assert relays(listeners=(by_argument,), folders={66: "/"}, host="0.0.0.0") == [text]
    assert relays(listeners=(by_folder,), folders={66: "/opt/firstlight/models"}) == [text]
    assert relays(listeners=(own,), folders={66: "/opt/firstlights"}) == []
    assert relays(listeners=(by_argument,)) == [], "of a unit of this product"


def test_the_listeners_of_this_machine_have_their_processes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [each for number, each in all_listeners() if number == port]
    assert [(each.address, [one.pid for one in each.holders]) for each in found] == [("127.0.0.1", [os.getpid()])]
