"""A pyinfra deploy that proves the same as `playbooks/site.yml` on an installed host: nothing needs to change.

Run by benchmarks/second_run.py with the hosts' variables of a run (install/hosts.yml) as data. Only pyinfra's own
operations are used, one for each part of the state.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pyinfra import host  # type: ignore[import-not-found]
from pyinfra.facts.files import Sha256File  # type: ignore[import-not-found]
from pyinfra.operations import apt, files, server, systemd  # type: ignore[import-not-found]

wanted: dict[str, Any] = host.data.firstlight
prefix: str = wanted["firstlight_prefix"]
owner: str = wanted["firstlight_owner"]
environment: dict[str, Any] = wanted["firstlight_environment"]
service: dict[str, Any] = wanted["firstlight_service"]
folder = f"{prefix}/envs/{environment['digest']}"

apt.packages(name="Operating system packages", packages=wanted["firstlight_system_packages"])
server.user(
    name="Service account",
    user=owner,
    home=f"{prefix}/home",
    shell="/usr/sbin/nologin",
    system=True,
    ensure_home=False,
)
for path in (prefix, *(f"{prefix}/{name}" for name in ("envs", "python", "bin", "models", "etc", "logs", "verify"))):
    files.directory(name=f"Folder {path}", path=path, mode="755", user="root")
for name, mode in (("run", "755"), ("cache", "750"), ("home", "700")):
    files.directory(name=f"Folder {name}", path=f"{prefix}/{name}", mode=mode, user=owner)
for name, source in wanted["firstlight_tools"].items():
    files.put(name=f"Tool {name}", src=source, dest=f"{prefix}/bin/{name}")
files.file(name="Environment is complete", path=f"{folder}/.complete")
files.put(name="Lock", src=io.StringIO(environment["lock"]), dest=f"{folder}/lock.txt")
release = f"releases/{wanted['firstlight_state']['release']}/environment"
files.link(name="Environment of the release", path=f"{prefix}/{release}", target=f"../../envs/{environment['digest']}")
files.link(name="Current release", path=f"{prefix}/current", target=release)
weights = f"{prefix}/models/{wanted['firstlight_model']['name']}/model.safetensors"
if host.get_fact(Sha256File, path=weights) != host.data.weights_sha256:
    raise ValueError(f"{weights} is not the built-in model")
if service["unit"]:
    files.put(name="Unit", src=io.StringIO(service["unit"]), dest=service["unit_path"])
    files.file(name="Secrets are the service's alone", path=f"{prefix}/etc/service.env", mode="600")
    systemd.service(name="Service runs", service=Path(service["name"]).name, running=True, enabled=True)
