"""Files that somebody changed: wheels, bundles, programs for hosts, records; and keys of hosts."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from minisign import KeyPair

from benchmarks.security_cases.rows import AcceptedError, Outcome, case, firstlight, refused
from provision.catalog.index.settings import ClientSettings
from provision.core.models.facts import Installed
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.features.quarantine.marks import QuarantineStore
from provision.fleet.ssh.host_keys import check_host_key
from provision.fleet.ssh.known_hosts import add_known_key
from provision.fleet.ssh.upload import upload_locally
from provision.phases.stage import stage
from provision.phases.stage.bundle import keys
from provision.phases.stage.bundle.product_files import product_files, require_product
from provision.phases.stage.wheelhouse import Store
from provision.phases.verify.tool import build_zipapp
from provision.pipeline.bundle_order import LastBundles, accept_bundle
from provision.pipeline.host_changes import is_up_to_date
from tests.install.conftest import make_site
from tests.pipeline.test_up_to_date import host_facts, make_desired
from tests.report.sample import CPU_STACK, Folder, host
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import FACTS, TAG, make_stack, resolve_to
from tests.stage.test_bundle import make, rewrite

GROUP = "manipulated files"
KEYS = "host keys"
PLAYBOOK = "playbooks/site.yml"
ROOT = Path(__file__).resolve().parents[2]


def flip(content: bytes) -> bytes:
    """Return a content of the same length with another last byte."""
    return content[:-1] + bytes([content[-1] ^ 1])


@case(GROUP, "a wheel in the wheelhouse gets another byte", "it counts as absent and is removed")
def wheel_in_the_wheelhouse(folder: Path) -> Outcome:
    store = Store(folder / "cache")
    (folder / "a.whl").write_bytes(b"the locked content")
    path = store.add(folder / "a.whl")
    path.write_bytes(flip(path.read_bytes()))
    os.utime(path, ns=(0, 0))
    found = store.find(path.parent.name, "a.whl")
    return Outcome("absent, removed" if found is None and not path.exists() else "used", int(found is not None))


@case(
    GROUP,
    "the same with size and time of the original: the wheelhouse trusts them",
    "refused where it arrives, by its hash",
)
def wheel_with_the_old_time(folder: Path) -> Outcome:
    path = folder / "a.whl"
    path.write_bytes(b"the locked content")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(flip(path.read_bytes()))
    file = StagedFile(name="a.whl", path=str(path), sha256=sha256, size=path.stat().st_size, kind="wheel")
    return Outcome(refused(lambda: upload_locally("here", [file], folder / "incoming", None), "a.whl"))


@case(
    GROUP,
    "a wheel on the host is changed between its arrival and the installation",
    "refused by its hash; nothing is live",
)
def wheel_on_the_host(folder: Path) -> Outcome:
    site = make_site(folder)
    site.send()
    wheel = next(path for path in site.incoming.iterdir() if path.name.startswith("alpha"))
    wheel.write_bytes(flip(wheel.read_bytes()))
    result = site.play("install")
    live = (site.prefix / "current").exists() or (site.environment / ".complete").exists()
    return Outcome(f"{result.status}: {result.text}", int(result.status != "failed" or live))


@case(GROUP, "an index announces one hash and sends another wheel", "refused by its hash; not in the wheelhouse")
def wheel_of_the_index(folder: Path) -> Outcome:
    site = Site()
    try:
        name, content = make_wheel("torch", "2.7.0", tag=TAG)
        path = site.add_wheel(name, content)
        site.add_wheel(*make_wheel("vllm", "0.9.1", requires=("torch==2.7.0",)))
        site.content[path] = make_wheel("torch", "2.7.0", tag=TAG, padding=64)[1]
        store = Store(folder / "cache")

        def lock() -> object:
            settings = ClientSettings(index=f"{site.url}/simple")
            return stage(resolve_to(make_stack(None, None)), Settings(), FACTS, store=store, client=settings)

        text = refused(lock, "torch")
    finally:
        site.close()
    return Outcome(text, len(list((folder / "cache").rglob("torch*.whl"))))


def _bundle(did: str, change: Callable[[Path], str | None]) -> None:
    @case(GROUP, f"bundle: {did}", "refused, with the file's name or the key; no cache entry of it is used")
    def act(folder: Path) -> Outcome:
        made = make(folder, product=[(PLAYBOOK, ROOT / PLAYBOOK)])
        trust = change(made.path)
        there = Store(folder / "other")
        text = refused(lambda: replace(made, trust=trust or made.trust).open(there))
        return Outcome(text, int((there.root / "locks").exists()))


def _member(prefix: str) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda name, content: flip(content) if name.startswith(prefix) else content)


def _outside(path: Path) -> None:
    """Sign a manifest with a path outside the bundle, as its creator could."""
    changed: dict[str, bytes] = {}

    def change(name: str, content: bytes) -> bytes:
        if name == "manifest.json":
            manifest = json.loads(content)
            manifest["files"][0]["path"] = "product/../../outside"
            changed[name] = json.dumps(manifest).encode()
            return changed[name]
        if name == "manifest.json.minisig":
            return keys.sign(keys.signing_key(None), changed["manifest.json"], "a test")
        return content

    rewrite(path, change)


def _stranger(_: Path) -> str:
    """Return the key of somebody else."""
    return str(KeyPair.generate().public_key.to_base64(), "ascii")


def _short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


_bundle("a wheel for hosts has another byte", _member("files/"))
_bundle("a playbook has another byte", _member(f"product/{PLAYBOOK}"))
_bundle("a wheel of the controller has another byte", _member("controller/"))
_bundle("the bill of materials has another byte", _member("sbom/"))
_bundle("the manifest has another byte", _member("manifest.json"))
_bundle("a file is added", lambda path: rewrite(path, lambda _, content: content, add=("files/extra", b"x")))
_bundle("half of it is missing", _short)
_bundle("another key is trusted than that of its creator", _stranger)
_bundle("its creator signed a path outside of it", _outside)


@case(
    GROUP,
    "bundle: an older one of the same creator, properly signed, after a newer one",
    "no host gets an older environment unnoticed",
)
def downgrade(folder: Path) -> Outcome:
    older, newer = (make(folder / name).open(Store(folder / "other")).settings.bundled for name in ("older", "newer"))
    assert older is not None
    assert newer is not None
    lasts, there = LastBundles(folder), host("a")
    accept_bundle(newer, there, lasts, accepts_older=False)
    return Outcome(refused(lambda: accept_bundle(older, there, lasts, accepts_older=False), newer.made_at))


@case(
    GROUP,
    "bundle: a playbook is changed after `tar -xf BUNDLE product`, before the product runs from there",
    "the run names the changed file; who changes the comparison as well is not found",
)
def unpacked_product(folder: Path) -> Outcome:
    made = make(folder, product=[*product_files()][1:])
    subprocess.run(["tar", "-xf", made.path, "product"], cwd=folder, check=True)
    manifest = made.open(Store(folder / "other")).manifest
    playbook = folder / "product" / PLAYBOOK
    playbook.write_bytes(flip(playbook.read_bytes()))
    return Outcome(refused(lambda: require_product(manifest, folder / "product"), PLAYBOOK))


@case(GROUP, "verify.pyz in the controller's cache gets other code", "it is made again before it is sent")
def zipapp(folder: Path) -> Outcome:
    path = build_zipapp(folder / "verify.pyz")
    right = path.read_bytes()
    path.write_bytes(flip(right))
    again = build_zipapp(folder / "verify.pyz").read_bytes()
    return Outcome("made again" if again == right else "used as it is", int(again != right))


@case(
    GROUP, "verify.pyz on an installed host gets other code", "the next installation replaces it, and reports a change"
)
def zipapp_on_the_host(folder: Path) -> Outcome:
    site = make_site(folder)
    site.send()
    if site.play().status != "ok":
        return Outcome("the installation failed", 1, "fail")
    path = site.prefix / "bin/verify.pyz"
    right = path.read_bytes()
    path.write_bytes(flip(right))
    result = site.play()
    healed = path.read_bytes() == right and result.changed
    return Outcome(f"{result.status}, changed: {result.changed}", int(not healed))


@case(
    GROUP,
    "state.json of a host is replaced: another environment, an empty one, one of other types",
    "the host is not up to date",
)
def state_of_a_host(folder: Path) -> Outcome:
    wanted = make_desired(folder)
    wrong = [
        {**wanted.state, "environment": "other"},
        {},
        {"environment": ["a"], "release": {"x": None}},
        {**wanted.state, "release": wanted.state["release"] + "0"},
    ]
    seen = [
        is_up_to_date(
            wanted,
            host_facts(
                Installed(
                    prefix="/opt/firstlight",
                    current=wanted.environment,
                    release=wanted.state["release"],
                    environments=(wanted.environment,),
                    service="active",
                    state=state,
                    last_verify={"status": "ok"},
                )
            ),
        )
        for state in (*wrong, wanted.state)
    ]
    if not seen.pop():
        return Outcome("the unchanged state is not up to date: the case shows nothing", 1, "fail")
    return Outcome(f"{seen.count(False)} of {len(seen)} lead to an installation", sum(seen))


@case(GROUP, "the mark of a quarantined host on the controller is damaged", "it stays in force")
def mark(folder: Path) -> Outcome:
    store = QuarantineStore(folder / "logs")
    here = Host(name="a", connection=Connection(kind="local"), settings=Settings())
    (folder / "logs/quarantine").mkdir(parents=True)
    for text in ("", "{", "[]", '{"mark": null}', "[" * 100_000):
        (folder / "logs/quarantine/a.json").write_text(text)
        if store.get(here) is None:
            raise AcceptedError(f"a host is free with the mark `{text[:20]}`")
    return Outcome("in force with each of 5 damaged marks")


@case(
    GROUP,
    "records of a run are replaced by other JSON, by bytes, by deep lists",
    "every command on runs ends with an exit code, without a trace",
)
def records_of_a_run(folder: Path) -> Outcome:
    made = Folder(folder / "logs/20261120T101500Z", [host("a", local=True)])
    made.planned(["a"], CPU_STACK)
    made.green("a")
    (folder / "logs/latest").symlink_to("20261120T101500Z")
    commands = (("logs", "show"), ("logs", "open", "--no-browser"), ("logs", "list"), ("logs", "diff"))
    traces = 0
    for text in (b"[]", b'{"hosts": 3}', b"\xff\x00", b"[" * 100_000):
        for name in ("inventory.json", "phases.json", "facts/a.json", "verify/a.json", "events.jsonl"):
            made.run.path(name).write_bytes(text)
        done = [firstlight(*command, folder=folder) for command in commands]
        traces += sum("Traceback" in ended.text for ended in done)
    return Outcome(f"{traces} traces of 16 commands", traces)


@case(
    KEYS,
    "a host answers with another key than the known one, also where new keys are accepted",
    "refused: its key has CHANGED",
)
def changed_key(folder: Path) -> Outcome:
    file = folder / "known_hosts"
    add_known_key(str(file), "gpu-1", "ssh-ed25519", b"the known key", hashed=True)
    texts = [
        refused(
            lambda accept=accept, kind=kind: check_host_key(  # type: ignore[misc]
                "gpu-1",
                Connection(kind="ssh", address="gpu-1", known_hosts_files=(str(file),), accept_new_host_keys=accept),
                kind,
                b"another key",
            ),
            "CHANGED",
        )
        for accept in (False, True)
        for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256")
    ]
    kept = len(file.read_text().splitlines()) == 1
    return Outcome(f"{len(texts)} times refused: {texts[0]}", int(not kept))


@case(KEYS, "a host that nobody knows, and one whose key was revoked", "refused; no key is added")
def unknown_key(folder: Path) -> Outcome:
    file = folder / "known_hosts"
    connection = Connection(kind="ssh", address="gpu-1", known_hosts_files=(str(file),))
    unknown = refused(lambda: check_host_key("gpu-1", connection, "ssh-ed25519", b"key"))
    if file.exists():
        raise AcceptedError("a key was added")
    file.write_text("@revoked * ssh-ed25519 a2V5\n")
    revoked = refused(lambda: check_host_key("gpu-1", connection, "ssh-ed25519", b"key"), "revoked")
    return Outcome(f"{unknown}; {revoked}")
