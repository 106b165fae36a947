"""A host that is this machine: real Ansible over a local connection, a prefix in a temporary folder, a real environment."""

import copy
import getpass
import hashlib
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.inventory import Connection, Host
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder
from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target
from tests.install.wheels import build_wheel, lock_of

BUILTIN_MODEL = """\
import argparse, json, pathlib, struct
parser = argparse.ArgumentParser()
parser.add_argument("--folder")
folder = pathlib.Path(parser.parse_args().folder)
changed = not folder.exists()
if changed:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
print(json.dumps({"changed": changed}))
"""


@dataclass
class Site:
    """One host, its desired state, and runs of playbooks on it."""

    folder: Path
    variables: dict[str, Any]
    wheels: list[Path]
    name: str = "this"
    progress: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def prefix(self) -> Path:
        return Path(self.variables["firstlight_prefix"])

    @property
    def incoming(self) -> Path:
        return Path(self.variables["firstlight_incoming"])

    @property
    def release(self) -> str:
        """Return the digest of the active release."""
        return (self.prefix / "current").readlink().parent.name

    def state(self) -> dict[str, Any]:
        """Return the plan's part of state.json, with the digest of the release."""
        return {**self.variables["firstlight_state"], "release": self.release}

    @property
    def environment(self) -> Path:
        return self.prefix / "envs" / str(self.variables["firstlight_environment"]["digest"])

    def send(self, *_: Path) -> None:
        """Send every file of the plan to the incoming folder, as the pipeline does before `install`."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        for wheel in self.wheels:
            shutil.copy(wheel, self.incoming)
        shutil.copy(Path(sys.executable).with_name("uv"), self.incoming / "uv")

    def plan(self, **changes: Any) -> None:
        """Change the plan; state and service digest are computed again."""
        self.variables.update(copy.deepcopy(changes))
        service = self.variables["firstlight_service"]
        content = sorted((name, value) for name, value in service.items() if name != "digest")
        service["digest"] = hashlib.sha256(repr(content).encode()).hexdigest()
        folder, model = self.variables["firstlight_environment"]["digest"], self.variables["firstlight_model"]
        self.variables["firstlight_release"] = {
            "format": 1,
            "environment": folder.partition("-")[0],
            "model": {"kind": model["kind"], "folder": model["folder"]},
            "attention": None,
            "endpoint": None,
            "arguments": ["vllm", "serve", "{{ not a template }}"],
        }
        self.variables["firstlight_state"] = {"environment": folder, "service": service["digest"]}

    def use_wheels(self, wheels: list[Path]) -> None:
        """Plan an environment of these wheels."""
        self.wheels = wheels
        lock = lock_of(wheels)
        digest = hashlib.sha256(lock.encode()).hexdigest()[:16]
        self.plan(firstlight_environment={**self.variables["firstlight_environment"], "lock": lock, "digest": digest})

    def run(self) -> RunFolder:
        self.runs += 1
        return RunFolder.create(self.folder / "logs", command=f"test {self.runs}")

    def host(self) -> Host:
        return Host(name=self.name, connection=Connection(kind="local"), settings=Settings())

    def play(self, playbook: str = "site", **options: Any) -> PhaseResult:
        self.latest = self.run()
        results = install(
            self.latest,
            [Target(self.host(), self.variables)],
            playbook=playbook,
            progress=lambda host, text: self.progress.append(f"{host}: {text}"),
            **options,
        )
        return results[self.name]

    latest: RunFolder = field(init=False)


def make_site(folder: Path) -> Site:
    """Return a user's installation (no system account) with a small lock and without a service."""
    wheels = folder / "wheelhouse"
    wheels.mkdir(parents=True)
    tools = folder / "tools"
    tools.mkdir()
    (tools / "builtin_model.py").write_text(BUILTIN_MODEL)
    (tools / "verify.pyz").write_bytes(b"PK\x00\xff binary")
    site = Site(
        folder=folder,
        wheels=[],
        variables={
            "firstlight_prefix": str(folder / "host" / "firstlight"),
            "firstlight_incoming": str(folder / "host" / "incoming"),
            "firstlight_owner": getpass.getuser(),
            "firstlight_root": False,
            "firstlight_environment": {
                "digest": "",
                "lock": "",
                "stack": {"vllm": None, "note": "{{ not a template }}"},
                "interpreter": {
                    "origin": "host",
                    "path": getattr(sys, "_base_executable", sys.executable),
                    "archive": None,
                    "version": f"{sys.version_info.major}.{sys.version_info.minor}",
                },
                "uv": "uv",
                "last": [],
            },
            "firstlight_system_packages": [],
            "firstlight_debs": [],
            "firstlight_model": {"kind": "builtin", "name": "builtin", "folder": "builtin-1", "files": []},
            "firstlight_tools": {name: str(tools / name) for name in ("builtin_model.py", "verify.pyz")},
            "firstlight_service": {
                "supervisor": "none",
                "unit": "[Service]\nExecStart=/bin/true {{ not a template }}\n",
                "unit_path": str(folder / "host" / "units" / "firstlight-vllm.service"),
                "config": None,
                "environment": {"HF_HUB_OFFLINE": "1", "GREETING": 'a "quoted" $value'},
                "api_key": True,
                "name": "firstlight-vllm.service",
                "digest": "",
            },
        },
    )
    site.use_wheels([build_wheel(wheels, "alpha", "1.0"), build_wheel(wheels, "beta", "2.1")])
    return site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A bare host."""
    return make_site(tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A host that was installed once for all tests of a module; each test leaves it intact."""
    site = make_site(tmp_path_factory.mktemp("site"))
    site.send()
    result = site.play()
    assert (result.status, result.changed) == ("ok", True), result
    return site


def newer_wheels(site: Site) -> list[Path]:
    """The wheels of a later environment."""
    folder = site.folder / "wheelhouse"
    return [build_wheel(folder, "alpha", "1.1"), build_wheel(folder, "beta", "2.1")]
