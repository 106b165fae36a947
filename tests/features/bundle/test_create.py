"""What `bundle create` takes from hosts, and what it tells of the bundle; nothing is fetched here."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.errors import BundleError, Exit
from provision.core.models.inventory import Host, Service
from provision.core.models.invocation import Invocation
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan, Resolution
from provision.core.models.staged import Staged
from provision.features.bundle import create
from provision.features.bundle.create import BundleContents, RecordingStore
from provision.pipeline import CommandRequest
from provision.run import background
from provision.run.results import PlannedHosts, StagedHosts
from tests.fit.models import LLAMA_8B, write_model
from tests.pipeline.local_context import local_context, local_host
from tests.pipeline.test_up_to_date import STACK, host_facts, staged_of

WHAT_IF = "gpu=none os=debian-12 python=3.11 arch=x86_64 cpu=avx512 glibc=2.36 ram=64 disk=200"
PLAN = Plan(classes=(Resolution(hosts=("a", "b"), stack=STACK),))


@pytest.fixture(autouse=True)
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Keep what would be written, in place of the file."""
    contents: dict[str, Any] = {}

    def keep(output: Path, staged: list[Staged], model: str, *_: Any) -> Any:
        output.write_bytes(b"bundle")
        contents["model"] = model
        return BundleContents(staged, (), [], []).manifest()

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(create, "_write", keep)
    return contents


def asked(folder: Path, **overrides: Any) -> CommandRequest:
    options = {"--refresh": None, **{f"--{name}": value for name, value in overrides.items()}}
    typed = Invocation(inventory="site", limit="a,b", options=options)
    return CommandRequest("bundle", folder / "site", "a,b", overrides, folder / "logs", invocation=typed)


def staged_without_files(folder: Path) -> Staged:
    return staged_of(folder).model_copy(update={"files": ()})


def with_outcome(monkeypatch: pytest.MonkeyPatch, folder: Path, *hosts: Host) -> None:
    result = StagedHosts(staged={"a": staged_without_files(folder)}, notes=("without OS packages for b: no",))
    outcome = SimpleNamespace(exit_code=Exit.OK, hosts=hosts, result=result)
    monkeypatch.setattr(create, "execute", lambda *_: outcome)


def test_the_use_of_a_bundle_repeats_hosts_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_outcome(monkeypatch, tmp_path, local_host("a"), local_host("b"))
    request = asked(tmp_path, model="org/tiny")
    assert create.create(request, what_if=None, output=tmp_path / "my.bundle", key=None) == Exit.OK
    *_, note, use = capsys.readouterr().out.splitlines()
    assert "without OS packages for b: no" in note
    repeated = "-i INVENTORY --limit a,b --model org/tiny --bundle my.bundle --trust "
    assert use.strip().startswith(f"use it: ./firstlight provision {repeated}")
    assert "--refresh" not in use


def test_gateways_alone_need_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_outcome(monkeypatch, tmp_path, local_host("a", "gateway"))
    with pytest.raises(BundleError, match="a bundle has nothing for such hosts"):
        create.create(asked(tmp_path), what_if=None, output=tmp_path / "my.bundle", key=None)


def test_a_folder_needs_no_bundle_of_its_own_beside_the_built_in_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: dict[str, Any]
) -> None:
    folder, output = str(tmp_path / "mine"), tmp_path / "my.bundle"
    (tmp_path / "mine").mkdir()
    with_outcome(monkeypatch, tmp_path, local_host("a", model=folder), local_host("b"), local_host("c", serve=False))
    assert create.create(asked(tmp_path), what_if=None, output=output, key=None) == Exit.OK
    assert written == {"model": folder}
    with_outcome(monkeypatch, tmp_path, local_host("a", model=folder), local_host("b", model="org/tiny", serve=False))
    with pytest.raises(BundleError, match=f"these hosts serve 2 models, {folder}, org/tiny"):
        create.create(asked(tmp_path), what_if=None, output=output, key=None)
    with_outcome(monkeypatch, tmp_path, local_host("a"))
    assert create.create(asked(tmp_path), what_if=None, output=output, key=None) == Exit.OK
    assert written == {"model": "builtin"}


def test_the_model_of_a_described_host_is_found_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: dict[str, Any]
) -> None:
    folder = write_model(tmp_path / "mine", LLAMA_8B, {"lm_head.weight": ("BF16", [64], 2)})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(create, "stage", lambda *_, **__: staged_without_files(tmp_path))
    request = asked(tmp_path, model="~/mine")
    assert create.create(request, what_if=WHAT_IF, output=tmp_path / "my.bundle", key=None) == Exit.OK
    assert written == {"model": str(folder)}


def test_only_packages_that_this_machine_has_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = local_context(tmp_path, "ab")
    other = host_facts().os.model_copy(update={"id": "ubuntu"})
    planned = PlannedHosts(facts={"a": host_facts(), "b": host_facts(os=other)}, plan=PLAN)
    monkeypatch.setattr(create, "stage_hosts", lambda _, hosts: StagedHosts(**vars(hosts)))
    monkeypatch.setattr(
        create, "why_not_fetched", lambda names, system: f"no {names}" if system.id == "ubuntu" else None
    )
    assert len(background.lacking(context, planned)) == 2
    staged = create._stage_for_bundle(context, planned, store=RecordingStore(tmp_path / "cache"))
    assert context.background.package_sources == {"a": False}
    assert [note.startswith("without OS packages for b: no ('libnuma1'") for note in staged.notes] == [True]


def test_every_model_of_a_machine_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, search = Settings(model="org/chat"), Settings(model="org/search")
    context = local_context(tmp_path, "a")
    service = Service(
        name="chat", machine="m", services=(("a", chat), ("m@search", search), ("m@none", Settings(serve=False)))
    )
    host = local_host("a").model_copy(update={"service": service, "settings": chat})
    context = replace(context, inventory=context.inventory.model_copy(update={"hosts": (host,)}))
    described: list[str] = []
    monkeypatch.setattr(create, "describe_all", lambda settings, _: described.append(settings.model))
    monkeypatch.setattr(create, "stage_hosts", lambda _, hosts: StagedHosts(**vars(hosts)))
    planned = PlannedHosts(facts={"a": host_facts()}, plan=PLAN)
    create._stage_for_bundle(context, planned, store=RecordingStore(tmp_path / "cache"))
    assert described == ["org/chat", "org/search"]
