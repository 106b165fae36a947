"""The desired state of a host, from facts, Stack and settings: the variables of the playbooks, and the state that they write.

`state` is compared with PREFIX/state.json as a whole, by `host_changes.is_up_to_date`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from provision.catalog.packages import os_packages
from provision.core import features
from provision.core.environment_folders import folder_for
from provision.core.errors import FirstlightError
from provision.core.folders import product_path
from provision.core.install_paths import InstallPaths, install_paths_of
from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.settings import ADAPTERS, Settings
from provision.core.models.stack import Interpreter, Stack
from provision.core.models.staged import Staged, StagedFile
from provision.fleet.inventory.addresses import own_alone
from provision.phases.plan.family.families import task_of
from provision.phases.plan.services import part_of
from provision.phases.serve.command_line import ServeCommand, serve_command
from provision.phases.serve.model import BUILTIN, ServedModel
from provision.phases.serve.readiness import readiness_request
from provision.phases.serve.tools import serve_tools
from provision.phases.serve.unit import Service, digest_of, render_service
from provision.phases.stage.image import image_id
from provision.phases.stage.model import ADAPTER_CONFIG, adapter_rank
from provision.phases.verify.tool import build_zipapp

STATE_FORMAT = 1
RELEASE_FORMAT = 1
PEERS = "collectives.peers"
"""The check that warns when writes of one card into another's memory do not arrive."""


NO_SERVICE = Service(supervisor="none", name="none", environment={}, api_key=False, digest="none")


class Desired(Record):
    """The desired state of one host."""

    paths: InstallPaths
    environment: str
    """The folder below PREFIX/envs: the digest, and a number where a damaged environment is rebuilt."""
    lock: str
    stack: dict[str, Any]
    interpreter: Interpreter
    interpreter_archive: str | None
    uv: str
    system_packages: tuple[str, ...]
    debs: tuple[str, ...]
    model: ServedModel | None
    """None without a vLLM that could serve one."""
    model_files: tuple[StagedFile, ...]
    model_on_host: str | None = None
    """Folder on the host that the model's files are linked from; None where they are sent."""
    tools: dict[str, str]
    """Paths on the controller by name under PREFIX/bin."""
    image: StagedFile | None = None
    """The image of its container; None where it runs on the host itself."""
    service: Service
    readiness: dict[str, Any] | None = None
    """What its service has to answer, or hold; None where nothing is served."""
    agreement: str | None = None
    """Digest of what the hosts of its span have in common; None where it serves alone."""
    start_cache: str | None = None
    """Key of the start cache that it shares with its equals; None where it shares none."""
    release: dict[str, Any]
    """Record of the release, without its service; the state has its digest."""
    state: dict[str, Any]

    def ansible_vars(self) -> dict[str, Any]:
        """Return the host variables of the playbooks (docs/reference/playbooks.md)."""
        return {
            **self.paths.ansible_vars(),
            "firstlight_environment": {
                "digest": self.environment,
                "lock": self.lock,
                "stack": self.stack,
                "interpreter": {**self.interpreter.model_dump(), "archive": self.interpreter_archive},
                "uv": self.uv,
                "last": ["flash-attn"] if (self.stack["flash_attn"]["package"] or {}).get("key") else [],
            },
            "firstlight_system_packages": list(self.system_packages),
            "firstlight_debs": list(self.debs),
            "firstlight_model": {
                "kind": self.model.kind if self.model else "none",
                "name": self.model.name if self.model else "none",
                "folder": self.model.name if self.model else "none",
                "files": [{"name": file.name, "sha256": file.sha256, "size": file.size} for file in self.model_files],
                "on_host": self.model_on_host,
            },
            "firstlight_image": {"id": image_id(self.image), "file": self.image.name} if self.image else {},
            "firstlight_tools": self.tools,
            "firstlight_release": self.release,
            "firstlight_service": self.service.model_dump(),
            "firstlight_state": self.state,
        }


def packages_of(stack: Stack, facts: HostFacts) -> tuple[str, ...]:
    """Return the OS packages that the Stack needs and the host lacks, by their names in the host's distribution."""
    return packages_by_need(stack.system_packages, facts, python=stack.python)


def packages_by_need(needs: Sequence[str], facts: HostFacts, *, python: str) -> tuple[str, ...]:
    """Return the OS packages for what catalog/system.toml names, by their names in a host's distribution."""
    if not needs:
        return ()
    manager, system = facts.os.package_manager or "apt", facts.os
    return os_packages(needs, manager=manager, python=python, os_id=system.id, os_version=system.version_id)


def desired_state_of(
    host: Host,
    facts: HostFacts,
    staged: Staged,
    *,
    tools: Mapping[str, Path],
    verified: Mapping[str, Any] | None = None,
) -> Desired:
    """Compute the desired state of a host.

    Args:
        tools: The programs for PREFIX/bin, by name.
        verified: A document of checks that are newer than those in the facts.

    Raises:
        InventoryError: The cards do not suffice for the settings.
    """
    settings, stack = host.settings, staged.stack
    paths = install_paths_of(host, facts)
    environment = folder_for(staged.environment, facts.installed)
    files = {
        kind: [file for file in staged.files if file.kind == kind]
        for kind in ("interpreter", "tool", "deb", "model", "image")
    }
    model = _served_model(staged, files["model"], settings) if stack.vllm is not None else None
    service, command, readiness, image = NO_SERVICE, None, None, None
    if settings.serve and model is not None:
        kept = facts.installed.last_verify if facts.installed else None
        peer_writes = peer_writes_arrive(verified, kept)
        image = next(iter(files["image"]), None)
        command = serve_command(
            stack,
            settings,
            part_of(host, facts),
            prefix=paths.prefix,
            model=model,
            is_shared=host.service is not None,
            peer_writes=peer_writes,
            span=host.span,
            content=staged.environment,
        )
        service = render_service(
            command,
            settings,
            prefix=paths.prefix,
            supervisor=stack.supervisor,
            user=paths.owner,
            home=facts.user.home or "/root",
            service=paths.service,
            image=image_id(image) if image else None,
        )
    release = release_record(staged.environment, model, stack, settings, command)
    # It names PREFIX/releases/DIGEST.
    text = json.dumps({**release, "service": service.model_dump()}, indent=1, sort_keys=True) + "\n"
    digest = digest_of(text, release.get("address"))
    if command is not None and model is not None:
        readiness = readiness_request(
            prefix=paths.prefix,
            stack=stack,
            settings=settings,
            command=command,
            service=service,
            model=model,
            environment=staged.environment,
            release=digest,
        )
    return Desired(
        paths=paths,
        environment=environment,
        lock=Path(staged.lock).read_text(encoding="utf-8"),
        stack=stack.model_dump(mode="json", exclude={"model", "serving"}),
        interpreter=staged.interpreter or stack.interpreter,
        interpreter_archive=files["interpreter"][0].name if files["interpreter"] else None,
        uv=next(file.name for file in files["tool"] if file.name.startswith("uv")),
        system_packages=packages_of(stack, facts),
        debs=tuple(file.name for file in files["deb"]),
        model=model,
        model_files=tuple(files["model"]) if model else (),
        model_on_host=staged.model_on_host,
        tools={name: str(path) for name, path in tools.items()},
        image=image,
        service=service,
        readiness=readiness,
        agreement=command.span.agreement if command and command.span else None,
        start_cache=command.start_cache if command and settings.start_caches == "share" else None,
        release=release,
        state={
            "format": STATE_FORMAT,
            "release": digest,
            "product": product_digest(tuple(sorted(tools.values()))),
            "environment": environment,
            "model": model.name if model else None,
            "service": service.digest,
            "driver": stack.driver.version if stack.driver else None,
            # Settings change these without another environment, whose stack.json stays.
            "stack": stack.model_dump(mode="json", include={"gpus", "attention", "cuda_compat"}),
            # Clients reach the head of a span alone.
            "readiness": readiness if host.name == host.head else None,
            **({"member": readiness} if host.name != host.head else {}),
        },
    )


def release_record(
    environment: str, model: ServedModel | None, stack: Stack, settings: Settings, command: ServeCommand | None
) -> dict[str, Any]:
    """Return what a host serves, without the service's files.

    It holds nothing that another version of this product may choose differently for an equal service.
    """
    return {
        "format": RELEASE_FORMAT,
        "environment": environment,
        "model": {"kind": model.kind, "folder": model.name} if model else None,
        "attention": stack.attention.backend if command and stack.attention else None,
        "endpoint": ({"bind": settings.bind, "port": settings.port, "model": command.served_name} if command else None),
        "arguments": list(command.argv) if command else [],
        **({"address": address} if command and (address := own_alone(settings.bind)) else {}),
    }


def peer_writes_arrive(*documents: Mapping[str, Any] | None) -> bool:
    """Return whether cards may write into one another's memory; True also where it was never measured.

    The first of the documents that measured it decides, the newest comes first: a skipped check clears no warning.
    """
    for document in documents:
        for key in ("checks", "carried"):
            records = (document or {}).get(key)
            for record in records if isinstance(records, list) else ():
                if isinstance(record, dict) and record.get("id") == PEERS and record.get("status") in ("ok", "warn"):
                    return bool(record["status"] == "ok")
    return True


def _served_model(staged: Staged, files: list[StagedFile], settings: Settings) -> ServedModel:
    if staged.model is None:
        return BUILTIN
    by_name = {file.name: file for file in files}
    if "config.json" not in by_name:
        raise FirstlightError(f"model `{staged.model}` has no config.json")
    config = json.loads(Path(by_name["config.json"].path).read_text(encoding="utf-8"))
    heads = config.get("num_attention_heads")
    return ServedModel(
        kind="files",
        name=staged.model,
        attention_heads=heads if isinstance(heads, int) else None,
        task=task_of(config, by_name, settings.vllm_args),
        adapters={name: adapter_rank(by_name[f"{ADAPTERS}/{name}/{ADAPTER_CONFIG}"]) for name in sorted(settings.lora)},
        has_draft=settings.draft is not None,
    )


def host_tools(folder: Path) -> Mapping[str, Path]:
    """Return the programs for PREFIX/bin by name: those of the service and of features, and the checks."""
    added = {name: path for programs in features.hooks("host_programs") for name, path in programs(folder).items()}
    return {**serve_tools(folder), **added, "verify.pyz": build_zipapp(folder / "verify.pyz")}


@cache
def product_digest(tools: tuple[Path, ...]) -> str:
    """Return the digest of all that acts on a host: with new roles or tools a host is not up to date."""
    digest = hashlib.sha256()
    files = sorted(path for path in product_path("playbooks").rglob("*") if path.is_file() and path.suffix != ".md")
    # Another run may be compiling modules: __pycache__ then has files for a moment.
    for path in (*(file for file in files if file.parent.name != "__pycache__"), *tools):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
