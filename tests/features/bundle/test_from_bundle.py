"""A run from a bundle: the source of its files and its model."""

import json
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.errors import BundleError, InventoryError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.features.bundle import product_files
from provision.features.bundle.manifest import Manifest
from provision.features.bundle.reader import Bundled
from provision.phases.stage.wheelhouse import Store
from provision.pipeline import CommandRequest, commands
from provision.pipeline.runner import open_run, read_inventory
from tests.features.bundle.test_bundle import make
from tests.house.test_tracked_files import tracked
from tests.stage.test_model import write_model

pytestmark = pytest.mark.slow


@pytest.fixture
def request_from_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandRequest:
    """Return a run on a controller that has only the bundle; the model's folder does not exist."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = make(tmp_path / "maker", str(write_model(tmp_path / "my-model")))
    monkeypatch.setenv("FIRSTLIGHT_CACHE", str(tmp_path / "cache"))
    inventory = tmp_path / "hosts.yml"
    ours, other = (
        {"ansible_connection": "local", "firstlight_model": model} for model in ("../my-model", "/nowhere/other")
    )
    ours["firstlight_hf_token_file"] = "/nowhere/token"
    groups = {"gateway": {"hosts": {"door": ours}}}
    inventory.write_text(json.dumps({"all": {"hosts": {"localhost": ours, "second": other}, "children": groups}}))
    shutil.rmtree(tmp_path / "my-model")
    return CommandRequest("provision", inventory, None, {}, tmp_path / "logs", bundle=made.path, trust=made.trust)


@pytest.mark.parametrize(
    ("limit", "options"), [(None, {}), ("localhost", {}), ("localhost", {"model": "/elsewhere/my-model"})]
)
def test_the_model_comes_from_the_bundle(
    request_from_bundle: CommandRequest, tmp_path: Path, limit: str | None, options: dict[str, str]
) -> None:
    with open_run(replace(request_from_bundle, limit=limit, overrides=options)) as context:
        models = {host.name: host.settings.model for host in context.inventory.hosts}
        [gateway] = context.options.find_gateways()
        for model in (models["localhost"], gateway.settings.model):
            assert Path(model).is_relative_to(tmp_path / "cache")
            assert json.loads((Path(model) / "config.json").read_text())["architectures"]
        assert models.get("second", "/nowhere/other") == "/nowhere/other"
        bundled = context.options.client and context.options.client.bundled
        assert (bundled and bundled.name) == "site.bundle"


def test_a_limited_run_with_a_typed_model_is_begun(
    request_from_bundle: CommandRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str | None] = []
    monkeypatch.setattr(commands, "run_steps", lambda request, _steps: begun.append(request.limit))
    commands.run(replace(request_from_bundle, limit="localhost", overrides={"model": "/elsewhere/my-model"}))
    assert begun == ["localhost"]


def test_commands_without_the_bundle_read_hosts_with_its_model(
    request_from_bundle: CommandRequest, tmp_path: Path
) -> None:
    alone = replace(request_from_bundle, bundle=None)
    found = {host.name: host.settings.model for host in read_inventory(alone).hosts}
    model = str(tmp_path.parent / "my-model")
    assert found == {"localhost": model, "second": "/nowhere/other", "door": model}
    with pytest.raises(InventoryError, match="there is no folder /nowhere/typed"):
        read_inventory(replace(alone, overrides={"model": "/nowhere/typed"}))


ROOT = Path(__file__).resolve().parents[3]
SECRET = "hf_Qm4Planted7Tz1Ws6Bn9"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose user changed the inventories that came with it, and added files beside the playbooks."""
    root = tmp_path / "checkout"
    for paths, path in product_files.product_files(ROOT):
        if paths.startswith(("inventory/", "requirements/")):
            (root / paths).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / paths)
    for name in ("README.md", "LICENSE", "firstlight", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    for paths in ("inventory/local/hosts.yml", "inventory/example/group_vars/h100.yml"):
        with (root / paths).open("a") as file:
            file.write(f"# {SECRET}\n")
    for paths in ("inventory/local/host_vars/localhost.yml", "playbooks/group_vars/all/vault.yml"):
        (root / paths).parent.mkdir(parents=True, exist_ok=True)
        (root / paths).write_text(f"token: {SECRET}\n")
    return root


def test_a_users_changes_of_inventories_are_not_in_a_bundle(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = {
        "inventory/local/hosts.yml",
        "inventory/local/host_vars/localhost.yml",
        "inventory/example/group_vars/h100.yml",
        "playbooks/group_vars/all/vault.yml",
    }
    assert {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if holds(path, SECRET)} == own
    assert set(product_files.list_user_files(checkout)) == own
    made = make(tmp_path / "maker", product=list(product_files.product_files(checkout)))
    assert SECRET.encode() not in made.path.read_bytes()
    with tarfile.open(made.path) as tar:
        packed = set(tar.getnames())
    assert "product/inventory/example/hosts.yml" in packed
    assert not {f"product/{paths}" for paths in own} & packed


def holds(path: Path, text: str) -> bool:
    return path.is_file() and text in path.read_text()


def test_a_bundle_has_the_inventories_of_the_release() -> None:
    """`inventories.toml` has the digest of each: who changes one changes both."""
    shipped = {path.relative_to(ROOT).as_posix() for path in tracked() if path.is_relative_to(ROOT / "inventory")}
    assert shipped
    packed = {paths for paths, _ in product_files.product_files(ROOT)}
    assert packed >= shipped


@pytest.fixture
def unpacked(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Manifest]:
    """A product as `tar -xf BUNDLE product` leaves it, and the manifest of that bundle."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = make(tmp_path / "maker", product=[*product_files.product_files(checkout)][1:])
    subprocess.run(["tar", "-xf", made.path, "product"], cwd=tmp_path, check=True)
    return tmp_path / "product", made.open(Store(tmp_path / "there")).manifest


def test_an_unpacked_product_is_the_signed_one(unpacked: tuple[Path, Manifest]) -> None:
    root, manifest = unpacked
    product_files.require_product(manifest, root)
    (root / "inventory" / "site").mkdir(parents=True)
    (root / "inventory" / "site" / "hosts.yml").write_text("all: {}\n")  # the user's own
    product_files.require_product(manifest, root)


def test_files_that_differ_from_the_signed_product_are_named(unpacked: tuple[Path, Manifest]) -> None:
    root, manifest = unpacked
    (root / "README.md").write_text("# Another\n")
    (root / "pyproject.toml").unlink()
    (root / "playbooks" / "library").mkdir(parents=True)
    (root / "playbooks" / "library" / "firstlight_more.py").write_text("pass\n")
    with pytest.raises(BundleError) as refused:
        product_files.require_product(manifest, root)
    assert "README.md was changed" in refused.value.text
    assert "playbooks/library/firstlight_more.py was added" in refused.value.text
    assert "pyproject.toml is missing" in refused.value.text
    (root / ".git").mkdir()
    product_files.require_product(manifest, root)  # the user's own checkout


OLDER = Bundled("older.bundle", "2026-01-02T00:00:00.000Z", ())
NEWER = Bundled("newer.bundle", "2026-03-04T00:00:00.000Z", ())
HOST = Host(name="a", connection=Connection(kind="ssh", address="192.0.2.1"), settings=Settings())


def test_a_host_gets_no_older_bundle_unless_that_is_accepted(tmp_path: Path) -> None:
    OLDER.accept(HOST, tmp_path)
    NEWER.accept(HOST, tmp_path)
    NEWER.accept(HOST, tmp_path)
    with pytest.raises(BundleError) as refused:
        OLDER.accept(HOST, tmp_path)
    assert all(text in refused.value.text for text in (OLDER.name, OLDER.made_at, NEWER.name, NEWER.made_at, "`a`"))
    replace(OLDER, accepts_older=True).accept(HOST, tmp_path)
    OLDER.accept(HOST, tmp_path)


def test_another_host_of_the_same_name_may_get_an_older_bundle(tmp_path: Path) -> None:
    NEWER.accept(HOST.model_copy(update={"connection": Connection(kind="local")}), tmp_path)
    OLDER.accept(HOST, tmp_path)
