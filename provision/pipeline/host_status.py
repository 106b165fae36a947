"""What `status` says of a host: what is installed, and what a gateway or a monitoring host is there for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import ServeRecord
from provision.fleet.inventory.addresses import own_address, with_port
from provision.phases.gateway.backends import endpoint_of, reached_at
from provision.phases.gateway.traffic import Traffic
from provision.report.endpoint import chat_commands, key_file
from provision.report.last_verify import verified_line


def gateway_of(host: Host, traffics: Mapping[str, Traffic], silent: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what is known of a gateway; None of any other host.

    Args:
        host: The host.
        traffics: The figures of gateways that answered, by name.
        silent: Why others did not, by name.
    """
    if not host.is_gateway:
        return None
    traffic = traffics.get(host.name)
    return {
        "endpoint": endpoint_of(host, reached_at(host)),
        "hosts": [{"host": one.host, "model": one.model, "state": one.state} for one in traffic.hosts]
        if traffic is not None
        else None,
        "error": silent.get(host.name),
    }


def monitoring_of(host: Host, facts: HostFacts) -> dict[str, Any] | None:
    """Return what is known of a monitoring host; None of any other."""
    if not host.is_monitoring:
        return None
    settings = host.settings
    return {
        "prometheus": f"http://{with_port(own_address(settings.monitoring_bind.strip('[]')), settings.monitoring_port)}",
        "listens": None
        if "ports" in facts.unknown
        else any(port.port == settings.monitoring_port for port in facts.ports),
    }


def serving_of(host: Host, facts: HostFacts) -> dict[str, Any] | None:
    """Return the model that a host serves, its address, where its key is, and the commands that ask it; None where it serves none.

    It is what the last proof of the running release says.
    """
    installed = facts.installed
    ready = (installed.last_ready if installed else None) or {}
    if installed is None or installed.service != "active" or ready.get("release") != installed.release:
        return None
    try:
        proof = ServeRecord.model_validate(ready.get("record"))
    except ValueError:
        return None
    if proof.endpoint is None or proof.model is None:
        return None
    key = key_file(host, installed.prefix)
    call = chat_commands(proof, key, host, facts.user.name)
    return {"model": proof.model, "endpoint": proof.endpoint, "key_file": key, "call": [*call]}


def described(
    host: Host,
    facts: HostFacts,
    *,
    serving: Mapping[str, Any] | None,
    gateway: Mapping[str, Any] | None,
    monitoring: Mapping[str, Any] | None,
) -> str:
    """Return one line of what is on a host.

    Args:
        host: The host.
        facts: What the probe found there.
        serving: Result of `serving_of`.
        gateway: Result of `gateway_of`.
        monitoring: Result of `monitoring_of`.
    """
    installed = facts.installed
    is_bare = installed is None or (installed.state is None and not installed.environments)
    parts = []
    if serving:
        key = f", API key in {serving['key_file']} on the host" if serving["key_file"] else ""
        parts.append(f"model {serving['model']} at {serving['endpoint']}{key}")
    parts += _installed(facts) if not is_bare else ["nothing installed"] if host.is_provisioned else []
    parts += [_gateway(gateway)] if gateway else []
    parts += [_monitoring(monitoring)] if monitoring else []
    if installed is not None and installed.locked_by:
        parts.append(f"locked by run {installed.locked_by.get('run', '?')}")
    return "; ".join(parts)


def _installed(facts: HostFacts) -> list[str]:
    installed = facts.installed
    if installed is None:
        return []
    others = sorted(set(installed.releases) - {installed.release, installed.previous_release})
    return [
        f"release {installed.release}" if installed.release else "no release",
        *([f"previous release {installed.previous_release}"] if installed.previous_release else []),
        *(f"release {digest} not in use" for digest in others),
        f"environment {installed.current}" if installed.current else "no environment in use",
        f"service {installed.service}" if installed.service else "no service",
        verified_line(installed.last_verify, facts.probed_at, installed.current),
        *(f"drift: {drift.sentence}" for drift in installed.drift),
    ]


def _gateway(gateway: Mapping[str, Any]) -> str:
    """Return a gateway in words; the figures of its hosts are those of `./firstlight gateway status`."""
    at = f"gateway at {gateway['endpoint']}"
    if gateway["hosts"] is None:
        return f"{at}, no answer: {' '.join(gateway['error'].split())}" if gateway["error"] else at
    models: dict[str, list[str]] = {}
    for one in gateway["hosts"]:
        models.setdefault(one["model"], []).append(f"{one['host']} {one['state']}")
    served = ", ".join(f"{model} ({', '.join(hosts)})" for model, hosts in models.items())
    return f"{at} for {served}" if served else f"{at}, no host behind it"


def _monitoring(monitoring: Mapping[str, Any]) -> str:
    if monitoring["listens"] is False:
        return f"monitoring host, nothing listens at {monitoring['prometheus']}"
    return f"monitoring host, Prometheus at {monitoring['prometheus']}"
