"""A small bundle: created with a network, used without one, refused when its content differs from the signed manifest."""

import io
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import BundleError, StageError
from provision.core.folders import config_folder
from provision.core.models.settings import Settings
from provision.core.models.stack import FlashAttnPackage, FlashAttnPlan, Interpreter, Stack
from provision.core.models.staged import Staged
from provision.features.bundle import manifest as bundle_keys
from provision.features.bundle.create import BundleContents, RecordingStore, write_bundle
from provision.features.bundle.reader import OpenedBundle, open_bundle
from provision.phases.stage import stage
from provision.phases.stage.image import image_id
from provision.phases.stage.model_description import describe
from provision.phases.stage.sbom import write_sbom
from provision.phases.stage.vllm_wheel import FILES, ROWS
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.keys import make_key
from tests.fit.models import LLAMA_8B
from tests.fit.models import write_model as write_tensors
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import FACTS, TAG, make_stack, resolve_to
from tests.stage.test_image import CONFIG, MEMBERS, archive
from tests.stage.test_model import offer, write_model

HUB_MODEL = "org/tiny"
TINY = "tiny_dependency-1.0-py3-none-any.whl"

PACKAGE = FlashAttnPackage(
    version="2.8.3", source="built", file="flash_attn.whl", key=make_key().built_for, builder="controller"
)


@dataclass
class Made:
    path: Path
    staged: Staged
    stack: Stack
    trust: str

    def open(self, store: Store, *, trust: str | None = None) -> OpenedBundle:
        return open_bundle(self.path, store, trust=trust or self.trust)


def make(folder: Path, model: str = "builtin", product: Sequence[tuple[str, Path]] = (), **further: Any) -> Made:
    """Make a bundle on a machine with an index that does not exist later; it contains `product` as well."""
    wanted = Settings.model_validate({"model": model, **further})
    site = Site()
    try:
        settings = ClientSettings(index=f"{site.url}/simple", sealed=True)
        site.add_wheel(*make_wheel("vllm", "0.9.1", requires=("torch==2.7.0", "tiny-dependency"), padding=1 << 16))
        site.add_wheel(*make_wheel("torch", "2.7.0", tag=TAG))
        site.add_wheel(*make_wheel("tiny-dependency", "1.0"))
        stack, store = make_stack(None, None), RecordingStore(folder / "maker")
        if model == HUB_MODEL:
            describe(wanted, store)
        staged = stage(resolve_to(stack), wanted, FACTS, store=store, client=settings)
    finally:
        site.close()
    wheel = next(Path(file.path) for file in staged.files if file.name == TINY)
    name = Path(model).name if Path(model).is_dir() else None
    contents = BundleContents(
        [staged], store.cache_entries(), [wheel], [("firstlight", Path(__file__)), *product], name
    )
    key = bundle_keys.signing_key(None)
    contents.sboms.append(write_sbom(staged, folder / "sbom"))
    write_bundle(folder / "site.bundle", contents, key)
    return Made(folder / "site.bundle", staged, stack, bundle_keys.public_text(key))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """One bundle for all tests, with a configuration folder of its own."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
            patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("UV_CACHE_DIR", str(folder / "uv"))
        yield make(folder)


@pytest.fixture
def hub(site: Site, bare_client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A hub with a tiny model with valid weights."""
    assert bare_client.parent.is_dir()
    monkeypatch.setenv("HF_ENDPOINT", site.url)
    folder = write_tensors(tmp_path / "tiny", LLAMA_8B, {"lm_head.weight": ("BF16", [64], 2)})
    offer(site, {path.name: path.read_bytes() for path in folder.iterdir()})
    return site


@pytest.fixture
def made(original: Made, tmp_path: Path) -> Made:
    """A copy that a test may change."""
    return replace(original, path=Path(shutil.copy(original.path, tmp_path / "site.bundle")))


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The wheelhouse of the machine without a network."""
    return Store(tmp_path / "other", limit_bytes=1 << 40)


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None], *, add: tuple[str, bytes] | None = None) -> None:
    """Return the tar with changed members; None removes one."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            reading = tar.extractfile(member)
            assert reading is not None
            content = change(member.name, reading.read())
            if content is not None:
                member.size = len(content)
                members.append((member, content))
    if add:
        extra = tarfile.TarInfo(add[0])
        extra.size = len(add[1])
        members.append((extra, add[1]))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))


def stage_there(
    made: Made, opened: OpenedBundle, store: Store, *, changed: Mapping[str, Any] | None = None, **settings: Any
) -> Staged:
    return stage(
        resolve_to(made.stack.model_copy(update=changed)),
        Settings.model_validate(settings | ({"model": opened.model} if opened.model else {})),
        FACTS,
        store=store,
        client=opened.settings,
    )


def test_stage_finds_everything_without_an_index(made: Made, other: Store) -> None:
    staged = stage_there(made, made.open(other), other)
    assert staged.from_cache
    assert staged.environment == made.staged.environment
    assert [(file.name, file.sha256) for file in staged.files] == [
        (file.name, file.sha256) for file in made.staged.files
    ]
    assert all(Path(file.path).is_relative_to(other.root) for file in staged.files)


def test_a_second_stage_reads_nothing_again(made: Made, other: Store) -> None:
    made.open(other)
    reported: list[int] = []
    open_bundle(made.path, other, trust=made.trust, progress=lambda done, _: reported.append(done))
    assert reported == []


def test_a_bundle_makes_room_for_itself(made: Made, tmp_path: Path) -> None:
    there = Store(tmp_path / "there", limit_bytes=1)
    for name in ("old", "needed"):
        (tmp_path / name).write_text(name)
    old, needed = (there.add(tmp_path / name) for name in ("old", "needed"))
    there.references.add("a", "0" * 16, [needed.parent.name])
    opened = made.open(there)
    assert (old.exists(), needed.exists()) == (False, True)
    assert stage_there(made, opened, there).environment == made.staged.environment


@pytest.mark.usefixtures("original")
def test_a_bundle_has_a_model_from_a_folder(other: Store, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "my-model+ü")
    (folder / "onnx").mkdir()
    (folder / "onnx/note.txt").write_text("kept in its place")
    made = make(tmp_path, str(folder))
    shutil.rmtree(folder)
    opened = made.open(other)
    staged = stage_there(made, opened, other)
    assert staged.model == made.staged.model
    assert staged.environment == made.staged.environment
    places = {file.name for file in staged.files if file.kind == "model"}
    assert {"config.json", "onnx/note.txt"} <= places
    assert Path(opened.model or "", "onnx/note.txt").read_text() == "kept in its place"


@pytest.mark.usefixtures("original")
def test_a_bundle_has_the_image_of_a_container(other: Store, tmp_path: Path) -> None:
    image = archive(tmp_path, MEMBERS)
    made = make(tmp_path, runtime="podman", image=str(image))
    [sent] = [file for file in made.staged.files if file.kind == "image"]
    image.unlink()
    opened = made.open(other)
    assert sent.sha256 in {file.sha256 for file in opened.manifest.files}
    # Another machine has the inventory in another folder.
    staged = stage_there(made, opened, other, runtime="podman", image="/elsewhere/image.tar")
    [found] = [file for file in staged.files if file.kind == "image"]
    assert (image_id(found), found.sha256, found.size) == (CONFIG, sent.sha256, sent.size)
    assert Path(found.path).is_relative_to(other.root)
    with pytest.raises(StageError, match=r"other.tar` is no archive"):
        stage_there(made, opened, other, runtime="podman", image="/elsewhere/other.tar")


def test_a_bundle_has_a_model_from_the_hub(other: Store, tmp_path: Path, hub: Site) -> None:
    made = make(tmp_path, HUB_MODEL)
    hub.close()
    # without a network, without the token, and without what this machine knows
    staged = stage_there(made, made.open(other), other, model=HUB_MODEL, hf_token_file="/nowhere/token")
    assert staged.model == made.staged.model
    assert describe(Settings(model=HUB_MODEL), other)


def test_a_bundle_has_equal_files_of_a_model_from_the_hub(other: Store, tmp_path: Path, hub: Site) -> None:
    files = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()}
    offer(hub, {**files, "1_Pooling/config.json": b"{}", "2_Normalize/config.json": b"{}"})
    made = make(tmp_path, HUB_MODEL)
    hub.close()
    staged = stage_there(made, made.open(other), other, model=HUB_MODEL)
    assert staged.model == made.staged.model
    assert all(Path(file.path).is_file() for file in staged.files)


@pytest.mark.slow
@pytest.mark.parametrize("is_folder", [False, True], ids=["of the hub", "of a folder"])
def test_a_bundle_has_what_is_served_with_a_model(other: Store, tmp_path: Path, hub: Site, is_folder: bool) -> None:
    files = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()}
    offer(hub, {**files, "chat_template.jinja": b"its own"})
    adapter = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": b"a", "tokenizer.json": b"{}"}
    offer(hub, adapter, commit="ada", revision="tuned")
    offer(hub, files, commit="small", revision="draft")
    template = tmp_path / "tools.jinja"
    template.write_text("{{ messages }}")
    settings: dict[str, Any] = {
        "chat_template": str(template),
        "lora": {"support": f"{HUB_MODEL}@tuned"},
        "speculative": {"model": f"{HUB_MODEL}@draft", "num_speculative_tokens": 3},
    }
    model = str(tmp_path / "tiny") if is_folder else HUB_MODEL
    made = make(tmp_path, model, **settings)
    hub.close()
    staged = stage_there(made, made.open(other), other, model=model, **settings)
    assert staged.model == made.staged.model
    sent = [file for file in staged.files if file.kind == "model"]
    assert {Path(file.path).is_relative_to(other.root) for file in sent if file.path != str(template)} == {True}


def test_a_bundle_has_no_credentials_of_an_index(tmp_path: Path) -> None:
    store = RecordingStore(tmp_path)
    store.put("locks", "a", {"url": "https://user:secret@index.example/a.whl", "size": 3})
    for kind in ("manifests", "builds", "published", "staged"):
        store.put(kind, "b+cu12", {"path": "of this machine alone"})
    for host in ("gpu-1@chat", "2001:db8::1"):
        store.references.add(host, "0" * 16, ["0" * 64])
    [noted] = store.cache_entries()
    assert (noted.kind, noted.key, noted.value) == ("locks", "a", {"url": "https://***@index.example/a.whl", "size": 3})


def test_a_bundle_has_what_is_known_of_a_wheel_that_settings_name(tmp_path: Path) -> None:
    store = RecordingStore(tmp_path)
    for table in (FILES, ROWS):
        store.put(table, "0" * 32, {"name": "vllm"})
    assert {noted.kind for noted in store.cache_entries()} == {FILES, ROWS}


@pytest.mark.parametrize(
    "member",
    ["files/", "controller/", "product/firstlight", "sbom/"],
    ids=["a wheel", "the controller's", "the product's", "the bill of materials"],
)
def test_a_changed_file_is_refused_by_its_name(made: Made, other: Store, member: str) -> None:
    with tarfile.open(made.path) as tar:
        name = next(entry.name for entry in tar if entry.name.startswith(member))
    rewrite(made.path, lambda here, content: content[:-1] + b"!" if here == name else content)
    with pytest.raises(BundleError, match=f"{name} differs from the signed manifest") as caught:
        made.open(other)
    assert "do not use it" in (caught.value.hint or "")
    assert not (other.root / "locks").exists()


def test_a_changed_manifest_is_refused(made: Made, other: Store) -> None:
    rewrite(
        made.path,
        lambda name, content: content.replace(b'"product"', b'"produce"') if name == "manifest.json" else content,
    )
    with pytest.raises(BundleError, match=r"manifest\.json is not signed by the key"):
        made.open(other)
    assert not other.root.exists()


def test_missing_and_additional_members_are_refused(made: Made, other: Store, tmp_path: Path) -> None:
    whole = made.path.read_bytes()
    rewrite(made.path, lambda _, content: content, add=("files/extra", b"x"))
    with pytest.raises(BundleError, match="files/extra differs from the signed manifest"):
        made.open(other)
    made.path.write_bytes(whole)
    with tarfile.open(made.path) as tar:
        last = tar.getnames()[-1]
    rewrite(made.path, lambda name, content: None if name == last else content)
    with pytest.raises(BundleError, match=f"is truncated: {last} is missing"):
        made.open(Store(tmp_path / "third"))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_copy_is_refused(made: Made, other: Store, share: float) -> None:
    content = made.path.read_bytes()
    made.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError, match=r"not a bundle|is truncated"):
        made.open(other)
    assert not (other.root / "locks").exists()


def test_another_key_is_refused_and_a_missing_key_is_an_error(
    made: Made, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the creator trusts their own key
    open_bundle(made.path, other, trust=None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "somebody else"))
    with pytest.raises(BundleError, match="no key is trusted") as caught:
        open_bundle(made.path, other, trust=None)
    assert "--trust" in (caught.value.hint or "")
    stranger = bundle_keys.public_text(bundle_keys.signing_key(None))
    with pytest.raises(BundleError, match="is not signed by the key"):
        made.open(other, trust=stranger)
    with pytest.raises(BundleError, match="is not a public key"):
        made.open(other, trust="abc")


def test_keys_are_made_once_and_only_their_owner_can_read_them(made: Made) -> None:
    secret = config_folder() / "bundle.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert bundle_keys.public_text(bundle_keys.signing_key(None)) == made.trust
    assert bundle_keys.public_text(bundle_keys.signing_key(secret)) == made.trust
    assert (config_folder() / "bundle.pub").read_text().splitlines()[1] == made.trust
    with pytest.raises(BundleError, match="is not a secret key"):
        bundle_keys.signing_key(config_folder() / "bundle.pub")


@pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
def test_minisign_verifies_the_manifest(made: Made, tmp_path: Path) -> None:
    parts = ["manifest.json", "manifest.json.minisig"]
    subprocess.run(["tar", "-xf", made.path, "-C", tmp_path, *parts], check=True)
    check = ["minisign", "-V", "-P", made.trust, "-m", str(tmp_path / "manifest.json")]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    with (tmp_path / "manifest.json").open("a") as file:
        file.write(" ")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 1


@pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
def test_a_key_of_minisign_signs_a_bundle(tmp_path: Path) -> None:
    key, public = tmp_path / "site.key", tmp_path / "site.pub"
    subprocess.run(["minisign", "-G", "-W", "-s", str(key), "-p", str(public)], check=True, capture_output=True)
    signature = bundle_keys.sign(bundle_keys.signing_key(key), b"content", "a test")
    bundle_keys.verify(b"content", signature, str(public), "a bundle")
    with pytest.raises(BundleError, match="is not signed"):
        bundle_keys.verify(b"Content", signature, str(public), "a bundle")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"interpreter": Interpreter(version="3.99.1", origin="host", path="/usr/bin/python3")},
            "Python 3.99.1 is wanted, the bundle has ",
        ),
        ({"platform": "aarch64-manylinux_2_39"}, "platform aarch64-manylinux_2_39 is wanted, the bundle has "),
        (
            {"flash_attn": FlashAttnPlan(provider="none", package=PACKAGE)},
            "flash-attn 2.8.3 for 9.0 is wanted, the bundle has none",
        ),
        ({"supervisor": "supervisor"}, "service manager supervisor is wanted, the bundle has that of the system"),
        ({"executor": "ray"}, "executor ray is wanted, the bundle has mp"),
        ({"tracing": ("a>=1",)}, "packages for traces a>=1 is wanted, the bundle has none"),
    ],
)
def test_another_class_of_host_is_refused_with_the_difference(
    made: Made, other: Store, changed: dict[str, Any], text: str
) -> None:
    with pytest.raises(StageError, match=r"`site\.bundle` has no environment for this class of host") as caught:
        stage_there(made, made.open(other), other, changed=changed)
    assert text in caught.value.text


def test_a_candidate_that_is_not_in_the_bundle_is_skipped(made: Made, other: Store) -> None:
    newer = made.stack.model_copy(update={"torch": made.stack.torch.model_copy(update={"version": "2.8.0"})})
    opened = made.open(other)
    staged = stage(resolve_to(newer, made.stack), Settings(), FACTS, store=other, client=opened.settings)
    assert staged.stack == made.stack


def test_an_unfinished_bundle_is_removed(made: Made, tmp_path: Path) -> None:
    made.path.unlink()
    own = tmp_path / "own.whl"
    own.write_bytes(b"one")
    wheel = next(file for file in made.staged.files if file.kind == "wheel")
    wheel = wheel.model_copy(update={"path": str(own), "size": 3})
    staged = made.staged.model_copy(update={"files": (wheel,)})
    key = bundle_keys.signing_key(None)
    for content in (b"two", b"on"):
        own.write_bytes(content)
        with pytest.raises(BundleError, match=r"own\.whl` changed while the bundle was written"):
            write_bundle(made.path, BundleContents([staged], (), [], []), key)
    assert not list(tmp_path.glob("site.bundle*"))


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(made: Made, tmp_path: Path) -> None:
    made.path.unlink()
    [*_, wheel] = (file for file in made.staged.files if file.kind == "wheel")
    staged = made.staged.model_copy(update={"files": (wheel.model_copy(update={"size": 1 << 60}),)})
    with pytest.raises(BundleError, match=r"needs 1048576\.0 TiB, and .* [GT]iB are free"):
        write_bundle(made.path, BundleContents([staged], (), [], []), bundle_keys.signing_key(None))
    assert not list(tmp_path.glob("site.bundle*"))


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writes to any file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_error_of_the_disk_is_not_reported_as_an_error_of_the_file_read(
    made: Made, other: Store, tmp_path: Path
) -> None:
    with no_file_beyond(4096), pytest.raises(BundleError, match="cannot be written to the wheelhouse") as refused:
        made.open(other)
    assert str(other.root) in refused.value.text
    key, target = bundle_keys.signing_key(None), tmp_path / "again.bundle"
    contents = BundleContents([made.staged], (), [], [])
    with (
        no_file_beyond(4096),
        pytest.raises(BundleError, match=f"`{target}` cannot be read or written: File too large"),
    ):
        write_bundle(target, contents, key)
    assert not list(tmp_path.glob("again.bundle*"))


def test_an_invalid_bundle_is_named(other: Store, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        open_bundle(tmp_path / "nowhere", other, trust=None)
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as tar:
        tar.add(__file__, "notes.py")
    with pytest.raises(BundleError, match=r"is not a bundle: manifest\.json is missing"):
        open_bundle(plain, other, trust=None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"files": [{"path": "product/../../outside", "sha256": "0" * 64, "size": 1}]}, "product/../../outside"),
        ({"model": {"name": "..", "files": {}}}, ".."),
        ({"model": {"name": ".", "files": {}}}, "."),
        ({"model": {"name": "m", "files": {"/outside": "0" * 64}}}, "/outside"),
    ],
)
def test_a_signed_manifest_with_paths_outside_the_bundle_is_refused(
    made: Made, other: Store, change: dict[str, Any], text: str
) -> None:
    key = bundle_keys.signing_key(None)
    changed: dict[str, bytes] = {}

    def outside(name: str, content: bytes) -> bytes:
        if name == "manifest.json":
            changed[name] = json.dumps(json.loads(content) | change).encode()
        elif name == "manifest.json.minisig":
            changed[name] = bundle_keys.sign(key, changed["manifest.json"], "a test")
        return changed.get(name, content)

    rewrite(made.path, outside)
    with pytest.raises(BundleError, match=f": {re.escape(text)} is outside the bundle"):
        made.open(other)
