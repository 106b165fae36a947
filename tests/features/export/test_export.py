"""The command: it plans from recorded facts, writes a folder with a README, and replaces nothing."""

import json
from pathlib import Path

import pytest

from provision.core.errors import Exit, FirstlightError, InventoryError, NoStackError, UsageError
from provision.features.export.commands import _plan, kubernetes
from provision.features.export.formats import Format
from provision.phases.plan.what_if import parse_what_if
from provision.pipeline import CommandRequest
from tests.features.export.checking import read, refuse
from tests.features.export.fleet import DIGEST, H100S
from tests.fit.models import LLAMA_8B, write_model
from tests.plan.test_services import services_of

HOSTS = """
all:
  children:
    gateway: {hosts: {gate: {ansible_host: 192.0.2.9, firstlight_gateway_requests_per_minute: 60}}}
    gpus:
      hosts: {a: {ansible_host: 192.0.2.1}, b: {ansible_host: 192.0.2.2}}
      vars: {firstlight_bind: 0.0.0.0, firstlight_expose: true}
    idle: {hosts: {c: {ansible_host: 192.0.2.3, firstlight_serve: false}}}
"""


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inventory, which is parsed once."""
    path = tmp_path_factory.mktemp("inventory") / "hosts.yml"
    path.write_text(HOSTS)
    return path


@pytest.fixture
def site(inventory: Path, tmp_path: Path) -> Path:
    """A folder with an inventory, and the facts of its hosts."""
    (tmp_path / "hosts.yml").symlink_to(inventory)
    write_facts(tmp_path / "facts.json")
    return tmp_path


def write_facts(path: Path, machine: str = H100S, served: str | None = None, **of_a: object) -> None:
    """Write the facts of both hosts; `of_a` is what `a` has of its installation alone."""
    facts = [parse_what_if(machine).model_copy(update={"host": name}).model_dump(mode="json") for name in ("a", "b")]
    state = {"readiness": {"served_name": served, "host": "0.0.0.0", "port": 8000}} if served else None
    installed = {"prefix": "/opt/firstlight", "state": state}
    own = {"a": of_a}
    path.write_text(json.dumps([{**each, "installed": installed | own.get(each["host"], {})} for each in facts]))


def run(site: Path, kind: Format = "production-stack", model: str | None = None, **options: object) -> int:
    folder = write_model(site / "model", LLAMA_8B, {"x": ("BF16", [8_000_000_000], 2)})
    request = CommandRequest(
        command="export",
        inventory=(site / "hosts.yml").resolve(),
        limit=None,
        overrides={"model": model or str(folder)},
        logs=site / "logs",
        arguments=("export", "kubernetes"),
    )
    wanted = {"allow_tag": kind != "endpoints" and "digest" not in options, **options}
    return kubernetes(request, kind=kind, output=site / "out", facts=[site / "facts.json"], **wanted)  # type: ignore[arg-type]


def test_a_folder_has_the_files_and_says_what_has_no_counterpart(site: Path) -> None:
    assert run(site, digest=DIGEST) == Exit.OK
    assert sorted(path.name for path in (site / "out").iterdir()) == ["README.md", "values.yaml"]
    values = read((site / "out/values.yaml").read_text())
    refuse(values, "production-stack")
    assert values[0]["servingEngineSpec"]["modelSpec"][0]["tag"].endswith(f"@{DIGEST}")
    text = (site / "out/README.md").read_text()
    for part in (
        "from 4 hosts",
        'printf %s "$(cat FILE)" | kubectl create secret generic vllm-api-key --from-file=key=/dev/stdin`',
        "PersistentVolumeClaim `models`, with the files of: `model/`",
        "| a, b | `model`: replicas: 2",
        "| `firstlight_gateway_requests_per_minute` of gate |",
        "| `firstlight_bind` of a, b |",
        "| host `c` | it serves no model |",
        "| driver 580.95.05, fabric manager 580.95.05 of a, b |",
        "CUDA_VISIBLE_DEVICES",
    ):
        assert part in text, part


def test_hosts_as_they_stand_are_endpoints(site: Path) -> None:
    write_facts(site / "facts.json", served="model-0123abcd")
    assert run(site, "endpoints") == Exit.OK
    [document] = read((site / "out/endpoints.yaml").read_text())
    refuse([document], "endpoints")
    assert [entry["address"] for entry in document["endpoints"]] == ["192.0.2.1", "192.0.2.2"]
    assert "the API key of each host" in (site / "out/README.md").read_text()


def test_a_quarantined_host_is_no_endpoint(site: Path) -> None:
    mark = {"at": "2026-01-01T00:00:00Z", "check": "devices.ecc", "text": "memory errors"}
    write_facts(site / "facts.json", served="model-0123abcd", current="e1", quarantine=mark)
    assert run(site, "endpoints") == Exit.OK
    [document] = read((site / "out/endpoints.yaml").read_text())
    assert [entry["name"] for entry in document["endpoints"]] == ["b"]
    assert (
        "| host `a` | quarantined since 2026-01-01T00:00:00Z: check `devices.ecc`"
        in (site / "out/README.md").read_text()
    )


def test_several_services_of_a_host_get_gpus_of_their_own_from_recorded_facts() -> None:
    facts = parse_what_if(H100S)
    hosts = services_of(a={"model": "builtin"}, b={"model": "builtin"})
    chosen = _plan(hosts, {host.name: facts.model_copy(update={"host": host.name}) for host in hosts})
    assert [one.stack.gpus for one in chosen.classes for _ in one.hosts if one.stack] == [(0,), (1,)]


def test_nothing_is_replaced(site: Path) -> None:
    (site / "out").mkdir()
    (site / "out/README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"`.*out/README\.md` exists already"):
        run(site)
    assert [path.name for path in (site / "out").iterdir()] == ["README.md"]
    assert (site / "out/README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "options", "error", "text"),
    [
        ("kserve", {"allow_tag": False}, UsageError, "no digest of the image is named"),
        ("kserve", {"digest": "sha256:12"}, UsageError, "`sha256:12` is no digest"),
        ("endpoints", {"allow_tag": True}, UsageError, "`--format endpoints` names no image"),
        ("endpoints", {}, InventoryError, "nothing to describe: `a`: it serves nothing now; `b`: it serves"),
        ("lws", {}, InventoryError, "nothing to describe: no model is spread over several hosts"),
        ("kserve", {"model": "builtin"}, InventoryError, "host `a` serves the built-in model"),
    ],
)
def test_what_cannot_be_described_is_refused(
    site: Path, kind: Format, options: dict[str, object], error: type[FirstlightError], text: str
) -> None:
    with pytest.raises(error, match=text):
        run(site, kind, **options)  # type: ignore[arg-type]
    assert not (site / "out").exists()


def test_a_host_without_facts_and_one_that_nothing_fits_are_refused(site: Path) -> None:
    write_facts(site / "facts.json", H100S.replace("glibc=2.39", "glibc=2.5"))
    with pytest.raises(NoStackError, match="no combination of versions fits a, b"):
        run(site)
    (site / "facts.json").write_text(json.dumps([parse_what_if(H100S).model_dump(mode="json")]))
    with pytest.raises(UsageError, match="the recorded facts have nothing of a, b"):
        run(site)
