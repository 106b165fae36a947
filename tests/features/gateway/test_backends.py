"""The hosts to which a gateway passes requests, and their addresses."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from provision.core.errors import InventoryError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.features.gateway import backends
from provision.features.gateway.step import looked_up
from provision.fleet.inventory.addresses import gateway_endpoint
from provision.fleet.ssh import open_session
from provision.run.served import Served


def host(name: str, *groups: str, address: str = "192.0.2.1", **settings: Any) -> Host:
    connection = Connection(kind="ssh", address=address)
    return Host(name=name, groups=groups, connection=connection, settings=Settings(**settings))


GATE = host("gate", "gateway", address="192.0.2.9")


def test_a_host_only_in_the_group_gateway_is_only_a_gateway() -> None:
    found = [host("h", *groups) for groups in (("gateway",), ("gateway", "gpus"), ("gpus",), ())]
    assert [one.is_gateway for one in found] == [True, True, False, False]
    assert [one.is_provisioned for one in found] == [False, True, True, True]


@pytest.mark.parametrize(
    ("bind", "reached"),
    [("10.0.0.5", "10.0.0.5"), ("0.0.0.0", "192.0.2.1"), ("::", "192.0.2.1"), ("[fd00::5]", "fd00::5")],
)
def test_a_host_is_reached_at_its_address(bind: str, reached: str) -> None:
    [found] = backends.backends_of(GATE, [GATE, host("h")], {"h": Served("m", bind, 8001, "key")})
    assert (found.name, found.model, found.address, found.port, found.key) == ("h", "m", reached, 8001, "key")


@pytest.mark.parametrize(
    ("bind", "reached"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.5", "10.0.0.5")]
)
def test_a_gateway_that_serves_reaches_itself(bind: str, reached: str) -> None:
    [found] = backends.backends_of(GATE, [GATE], {"gate": Served("m", bind, 8000, None)})
    assert found.address == reached


def test_the_name_of_a_host_is_looked_up_when_the_gateway_is_set_up() -> None:
    at = {"a": "localhost", "b": "192.0.2.5", "c": "no-host.invalid"}
    hosts = [host(name, address=address) for name, address in at.items()]
    found = backends.backends_of(GATE, hosts, dict.fromkeys(at, Served("m", "0.0.0.0", 8000, None)))
    session = open_session(GATE.model_copy(update={"connection": Connection(kind="local")}))
    at = looked_up(session, found, {})
    session.close()
    assert at.pop("no-host.invalid") == "no-host.invalid", "HAProxy refuses a name that nobody knows"
    # A minimal system has no /etc/hosts, and does not know it either.
    known = subprocess.run(["getent", "ahosts", "localhost"], capture_output=True, text=True, check=False).stdout
    assert at == {"localhost": next(iter(known.split()), "localhost")}


@pytest.mark.parametrize(
    ("answer", "used", "address"),
    [
        ("", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.9 STREAM a 192.0.2.9 DGRAM 192.0.2.7 STREAM", "192.0.2.9", "192.0.2.9"),
        ("192.0.2.9 STREAM a 192.0.2.9 DGRAM 192.0.2.7 STREAM", "192.0.2.6", "192.0.2.9"),
        ("2001:db8::1 STREAM a 192.0.2.9 STREAM", None, "2001:db8::1"),
    ],
    ids=["unknown for now", "in use", "another now", "as the resolver sorts"],
)
def test_the_address_that_a_gateway_uses_stays_while_its_name_has_it_or_is_unknown(
    answer: str, used: str | None, address: str
) -> None:
    found = backends.backends_of(GATE, [host("a", address="a.test")], {"a": Served("m", "0.0.0.0", 8000, None)})
    session: Any = SimpleNamespace(run=lambda command: SimpleNamespace(stdout=f"a.test {answer}\n"))
    known = {"gone.test": "192.0.2.1"} | ({"a.test": used} if used else {})
    assert looked_up(session, found, known) == {"a.test": address}


@pytest.mark.parametrize(
    ("bind", "address"),
    [("127.0.0.1", "192.0.2.1"), ("localhost", "192.0.2.1"), ("::1", "192.0.2.1"), ("0.0.0.0", "2001:db8::1")],
)
def test_a_host_that_listens_only_on_loopback_or_in_the_other_family_is_named(bind: str, address: str) -> None:
    served = {"h": Served("m", bind, 8000, None), "i": Served("m", "10.0.0.1", 8000, None)}
    with pytest.raises(InventoryError) as refused:
        backends.backends_of(GATE, [GATE, host("h", address=address), host("i")], served)
    assert refused.value.text == f"gateway `gate` cannot reach every host: host `h` listens on {bind}"
    assert "firstlight_bind" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("settings", "is_reached"),
    [
        ({}, False),
        ({"gateway_bind": "::"}, True),
        ({"gateway_bind": "2001:db8::9"}, True),
        ({"gateway_bind": "127.0.0.1"}, True),
        ({"gateway_certificate": "/srv/own.pem"}, True),
        ({"gateway_address": "10.0.0.9/24"}, True),
    ],
)
def test_a_gateway_listens_in_the_family_of_the_address_that_clients_get(
    settings: dict[str, Any], is_reached: bool
) -> None:
    gate = host("gate", "gateway", "gpus", address="2001:db8::9", **settings)
    served = {"gate": Served("m", "0.0.0.0", 8000, None)}
    if is_reached:
        assert [one.address for one in backends.backends_of(gate, [gate], served)] == ["127.0.0.1"]
        return
    with pytest.raises(
        InventoryError, match=r"listens on 0\.0\.0\.0 alone, and clients are to use 2001:db8::9"
    ) as refused:
        backends.backends_of(gate, [gate], served)
    assert "'::'" in str(refused.value.hint)


@pytest.mark.parametrize("adapters", [("m",), ("support",)], ids=["a model", "another adapter"])
def test_a_name_that_requests_give_stands_for_one_model(adapters: tuple[str, ...]) -> None:
    served = {
        "h": Served("m", "10.0.0.1", 8000, None, adapters=("support",)),
        "i": Served("m", "10.0.0.2", 8000, None, adapters=("support",)),
        "j": Served("n", "10.0.0.3", 8000, None, adapters=adapters),
    }
    hosts = [GATE, *map(host, served)]
    with pytest.raises(InventoryError, match=f"the name `{adapters[0]}` stands for several: of the models m, n"):
        backends.backends_of(GATE, hosts, served)
    found = backends.backends_of(GATE, hosts[:-1], {name: served[name] for name in "hi"})
    assert [one.adapters for one in found] == [("support",), ("support",)]


@pytest.mark.parametrize(
    ("others", "hint"),
    [([host("h")], "./firstlight provision"), ([host("h", "monitoring")], "a place directly below `all` is none")],
)
def test_a_gateway_needs_a_host(others: list[Host], hint: str) -> None:
    with pytest.raises(InventoryError, match="has nothing to pass requests to") as refused:
        backends.backends_of(GATE, [GATE, *others], {})
    assert hint in str(refused.value.hint)


def test_the_state_of_a_gateway_is_read_again() -> None:
    served = {
        "b": Served("m", "10.0.0.2", 8000, None, adapters=("support",)),
        "a": Served("m", "10.0.0.1", 8000, "key"),
    }
    assert backends.remembered(backends.to_remember(served)) == served
    for damaged in ("", "{", "[]", '{"a": {"model": 1}}', '{"a": 2}'):
        assert backends.remembered(damaged) == {}


@pytest.mark.parametrize(
    ("settings", "endpoint", "names"),
    [
        ({}, "https://192.0.2.1:8443/v1", "IP:192.0.2.1 DNS:localhost IP:127.0.0.1"),
        ({"gateway_bind": "::1", "gateway_port": 443}, "https://[::1]:443/v1", "IP:::1 DNS:localhost IP:127.0.0.1"),
        ({"gateway_bind": "127.0.0.1", "gateway_tls": False}, "http://127.0.0.1:8443/v1", "IP:127.0.0.1 DNS:localhost"),
    ],
)
def test_clients_get_the_address_of_the_gateway(settings: dict[str, Any], endpoint: str, names: str) -> None:
    gate = host("gate", "gateway", **settings)
    assert gateway_endpoint(gate, backends.reached_at(gate)) == endpoint
    assert backends.certificate_names(gate) == names.split()


def make_certificate(folder: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate for 127.0.9.1, and its key."""
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.9.1", "-keyout", str(key), "-out", str(crt)]
    subprocess.run(words, check=True, capture_output=True)
    return crt.read_text(), key.read_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_an_expired_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gateway.pem"
    path.write_text("".join(make_certificate(tmp_path, "a")))
    later = datetime.now(UTC) + timedelta(days=50)
    monkeypatch.setattr(backends, "datetime", Mock(now=lambda _: later))
    with pytest.raises(InventoryError, match=r"cannot be used: it expired on 20\d\d-\d\d-\d\d"):
        backends.read_certificate(str(path), "gate")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_certificate_must_have_its_own_key(tmp_path: Path) -> None:
    (first, first_key), (_, other_key) = make_certificate(tmp_path, "a"), make_certificate(tmp_path, "b")
    path = tmp_path / "gateway.pem"
    path.write_text(first + first_key)
    assert backends.read_certificate(str(path), "gate") == first + first_key
    assert backends.read_certificate(None, "gate") is None
    for text, why in ((first + other_key, "its key belongs to another certificate"), (first, ""), ("no", "")):
        path.write_text(text)
        with pytest.raises(InventoryError) as refused:
            backends.read_certificate(str(path), "gate")
        assert refused.value.text.startswith(f"gateway `gate`: certificate `{path}` cannot be used: {why}")
        assert "PEM" in str(refused.value.hint)
        assert other_key not in refused.value.render()
