"""Files and units of a monitoring host, and of each host that is monitored. Pure: equal values give equal bytes."""

import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path

from provision.core.folders import as_typed
from provision.core.models.inventory import Host
from provision.core.unit_set import UnitSet, filled
from provision.features.monitoring.targets import JOBS, Target, render_targets
from provision.fleet.inventory.addresses import listened_on, metrics_bind, own_address, own_alone, with_port

SERVER, EXPORTER = "monitoring", "exporter"
"""Names of the two sets."""
ACCOUNT = "prometheus"
"""Account that the packages make."""
CONFIG, ALERTS, ALERTMANAGER, PROBES = "prometheus.yml", "alerts.yml", "alertmanager.yml", "blackbox.yml"
SERVERS = ("prometheus", "alertmanager", "blackbox-exporter")
PACKAGES = ("prometheus", "prometheus-alertmanager", "prometheus-blackbox-exporter")
EXPORTER_PACKAGES = ("prometheus-node-exporter",)
PROBED = "probe"
"""The job of gateways that are asked from outside, which the configuration has itself."""
KEY = "key-"
"""Begins the name of each file with the API key of a host; the host's name follows."""
BY_SERVICE = """\
    metric_relabel_configs:
      - {source_labels: [host, service], regex: '([^@;]+)@[^;]*;(.+)', target_label: host, replacement: '$1@$2'}
      - {source_labels: [__name__, server], regex: 'haproxy_server_\\w+;([^:]+):([^:]+)', target_label: server, replacement: '$1@$2'}
"""
"""Gives metrics of a service its own name: as `host`, as vLLM's have it, since the first service of a machine has the exporter;
and as `server` of a gateway, where it has a colon for the `@`."""

_HERE = Path(__file__).parent


def server_set(
    host: Host, targets: Collection[Target], prefix: str, inventory: Path, alertmanager: str | None = None
) -> UnitSet:
    """Return the set of a monitoring host.

    Args:
        inventory: The inventory on the controller, which the commands of alerts name.
        alertmanager: The user's configuration of Alertmanager; None: alerts are sent to nobody.
    """
    settings = host.settings
    bind = listened_on(settings.monitoring_bind)
    values = {
        "prefix": prefix,
        "days": str(settings.monitoring_days),
        "address": with_port(bind, settings.monitoring_port),
        "alertmanager": with_port(bind, settings.alertmanager_port),
        "probe": f"127.0.0.1:{settings.monitoring_probe_port}",
    }
    own = {"alertmanager": with_port(own_address(bind), settings.alertmanager_port), "probe": values["probe"]}
    return UnitSet(
        name=SERVER,
        files={
            **_files(targets, own),
            **{name: (_HERE / name).read_text(encoding="utf-8") for name in (ALERTMANAGER, PROBES)},
            ALERTS: alerts_text(inventory),
            **({ALERTMANAGER: alertmanager} if alertmanager is not None else {}),
        },
        units={f"firstlight-{name}.service": _unit(f"firstlight-{name}.service", **values) for name in SERVERS},
        packages=PACKAGES,
        packaged=tuple(f"{name}.service" for name in PACKAGES),
        account=ACCOUNT,
        ports=(settings.monitoring_port, settings.alertmanager_port, settings.monitoring_probe_port),
        ready=(
            f"http://{with_port(own_address(bind), settings.monitoring_port)}/-/ready",
            f"http://{own['alertmanager']}/-/ready",
            f"http://{own['probe']}/-/healthy",
        ),
        checks=(
            ("promtool", "check", "config", CONFIG),
            ("amtool", "check-config", ALERTMANAGER),
            ("prometheus-blackbox-exporter", "--config.check", f"--config.file={PROBES}"),
        ),
        data=("prometheus", "alertmanager"),
    )


def alerts_text(inventory: Path) -> str:
    """Return the rules of alerts, whose commands can be typed as they are."""
    quoted = json.dumps(shlex.quote(str(inventory)))[1:-1]
    return as_typed((_HERE / ALERTS).read_text(encoding="utf-8")).replace("$inventory", quoted)


def _files(targets: Collection[Target], own: Mapping[str, str]) -> dict[str, str]:
    """Return Prometheus' configuration, with the lists of targets and the keys that it refers to."""
    config = filled(_HERE / CONFIG, **own)
    files: dict[str, str] = {}
    for job in JOBS:
        listed = f"{job}.json"
        files[listed] = render_targets(target for target in targets if target.job == job and target.key is None)
        config += _scrape(job, listed) if job != PROBED else ""
        config += BY_SERVICE if job in ("node", "gateway") else ""
    with_key = sorted((target for target in targets if target.key is not None), key=lambda target: target.host)
    for number, target in enumerate(with_key):
        listed = f"{target.job}-{number}.json"
        files[listed] = render_targets([target])
        files[f"{KEY}{target.host}"] = f"{target.key}\n"
        config += _scrape(f"{target.job}-{number}", listed, f"{KEY}{target.host}")
    return {**files, CONFIG: config}


def _scrape(name: str, listed: str, key: str | None = None) -> str:
    """Return one entry of `scrape_configs`; a JSON string is one of YAML too."""
    text = f"  - job_name: {name}\n    file_sd_configs: [{{files: [{listed}]}}]\n"
    return text if key is None else f"{text}    authorization: {{credentials_file: {json.dumps(key)}}}\n"


def exporter_set(host: Host, monitors: Collection[Host], prefix: str) -> UnitSet:
    """Return the set of a host that is monitored."""
    bind, port = listened_on(metrics_bind(host, monitors)), host.settings.metrics_port
    units = {"firstlight-node-exporter.service": {"address": with_port(bind, port)}}
    if host.is_provisioned:
        units |= {"firstlight-host-metrics.service": {}, "firstlight-host-metrics.timer": {}}
    return UnitSet(
        name=EXPORTER,
        files={},
        units={name: _unit(name, prefix=prefix, **values) for name, values in units.items()},
        packages=EXPORTER_PACKAGES,
        packaged=("prometheus-node-exporter.service",),
        account=ACCOUNT,
        ports=(port,),
        ready=(f"http://{with_port(own_address(bind), port)}/metrics",),
        data=("textfile",),
        hint=f"; if the host lacks {bind}, as behind NAT: set firstlight_metrics_bind" if own_alone(bind) else "",
    )


def _unit(name: str, **values: str) -> str:
    folder = _HERE / "units"
    confined = (folder / "confined.conf").read_text(encoding="utf-8").rstrip("\n")
    return filled(folder / name, **values, confined=confined)
