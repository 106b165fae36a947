"""Hosts and servers that answer what nobody expects: commands for terminals, endless output, bombs, paths. Memory is bounded."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from pathlib import Path

from benchmarks.security_cases.rows import AcceptedError, Outcome, case, firstlight, python, refused
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import FirstlightError
from provision.core.models.settings import Settings
from provision.features.host_comparison.compare import compare
from provision.features.host_comparison.text import MAJORITY, ComparedClass, prometheus
from provision.features.host_comparison.values import HostValues
from provision.fleet.inventory import load
from provision.fleet.ssh.session import READ_BYTES
from provision.fleet.ssh.shell import RUN_BYTES
from provision.phases.stage.bundle.manifest import read_manifest
from provision.phases.stage.model import stage_model
from provision.phases.stage.wheelhouse import Store, is_safe_path
from provision.report import page, summarise, write
from tests.inventory.test_hostile import BOMB, ONE
from tests.pipeline.test_printable import HOSTILE, commanding, on_terminal, run_folder
from tests.report.sample import CPU_STACK, Folder, facts, host, result

GROUP = "hostile host"
MIB = 2**20
BOUND_MIB = 400.0
"""Memory of a process that a hostile answer may cause at most, the 100 to 150 MiB of an ordinary command included."""
SENT_MIB = 64
MARKUP = '"><script>alert(1)</script><img src=x onerror=alert(2)>'

RUN = """
from provision.core.errors import FirstlightError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.fleet.ssh import open_session
session = open_session(Host(name="here", connection=Connection(kind="local"), settings=Settings()))
try:
    {call}
except FirstlightError as error:
    print(error.render())
else:
    print("ACCEPTED")
"""
PROBE = """
from provision.phases.probe.assemble import parse
{make}
facts = parse("host", text)
print(len(facts.model_dump_json()))
"""


def bounded(peak_mib: float, text: str, *, wrong: int = 0) -> Outcome:
    """Return the outcome of something that must not take much memory."""
    return Outcome(
        f"{text} Memory at most: {peak_mib:.0f} MiB of {BOUND_MIB:.0f}", wrong + int(not 0 < peak_mib <= BOUND_MIB)
    )


@case(
    GROUP,
    "commands for terminals, hidden and reversed text in every record of a run",
    "no control character reaches a terminal",
)
def terminal(folder: Path) -> Outcome:
    run_folder(folder)
    commands = (
        ("logs", "show"),
        ("logs", "show", "--full"),
        ("logs", "show", "--json"),
        ("logs", "list"),
        ("logs", "show", "--follow"),
    )
    found = {" ".join(words): commanding(on_terminal(*words, folder=folder)) for words in commands}
    (folder / "facts.json").write_text(json.dumps({"host": HOSTILE, "probed_at": HOSTILE, "cpu": {"model": HOSTILE}}))
    found["plan --facts"] = commanding(on_terminal("plan", "--facts", "facts.json", folder=folder))
    wrong = {name: codes for name, codes in found.items() if codes}
    return Outcome(f"{len(found)} commands on a pseudo-terminal: {wrong or 'none'}", len(wrong))


@case(
    GROUP,
    "commands for terminals and markup in facts, errors and findings",
    "the page runs no script of them, the summaries have no control characters, and Prometheus' text no line of theirs",
)
def markup(folder: Path) -> Outcome:
    hostile = f"{HOSTILE}{MARKUP}"
    made = Folder(folder / "logs/20261120T101500Z", [host("a"), host("b")])
    made.planned(["a", "b"], CPU_STACK)
    seen = facts("a")
    made.green("a")
    made.run.write(
        "facts/a.json",
        seen.model_copy(update={"cpu": seen.cpu.model_copy(update={"model": hostile}), "unknown": {"driver": hostile}}),
    )
    made.results(result("b", "install", "failed", text=hostile, hint=hostile))
    summary = summarise(made.run)
    write(made.run, summary)
    html = page.write(made.run).read_text(encoding="utf-8")
    wrong = [piece for piece in ("<script>alert", "<img src=x") if piece in html]
    rows = [HostValues(name, {"os.kernel": hostile if name == "b" else "6.1"}, {}) for name in ("a", "b", "c")]
    compared = ComparedClass(f'cards"}} 1\n{hostile}', MAJORITY, compare(rows))
    lines = prometheus([compared], missing=(), at_unix_s=0.0)
    if [line for line in lines.split("\n") if line and not line.startswith(("#", "firstlight_"))]:
        wrong.append("a line of its own in Prometheus' text")
    for name in ("summary.txt", "summary.md"):
        text = made.run.path(name).read_text(encoding="utf-8")
        if any(unicodedata.category(char)[0] == "C" and char not in "\n\t" for char in text):
            wrong.append(f"control characters in {name}")
    return Outcome(f"found: {wrong or 'none'}", len(wrong))


@case(
    GROUP,
    f"a command of the product is answered with {SENT_MIB} MiB",
    f"broken off at the limit of {RUN_BYTES // MIB} MiB; the memory is bounded",
)
def output(folder: Path) -> Outcome:
    done = python(RUN.format(call=f'session.run("head -c {SENT_MIB * MIB} /dev/zero")'), folder=folder)
    return bounded(done.peak_mib, done.stdout.partition("\n")[0], wrong=int("printed more than" not in done.stdout))


@case(
    GROUP,
    "a file of a host has 1 GiB, where the product reads it whole",
    f"broken off at the limit of {READ_BYTES // MIB} MiB; the memory is bounded",
)
def file(folder: Path) -> Outcome:
    with (folder / "large").open("wb") as sparse:
        sparse.truncate(2**30)
    done = python(RUN.format(call=f'session.read("{folder}/large")'), folder=folder)
    return bounded(done.peak_mib, done.stdout.partition("\n")[0], wrong=int("printed more than" not in done.stdout))


def _probe(did: str, make: str, most_bytes: int = 1_000_000) -> None:
    @case(GROUP, f"probe: {did}", f"facts of at most {most_bytes} bytes, no trace; the memory is bounded")
    def act(folder: Path) -> Outcome:
        done = python(PROBE.format(make=make), folder=folder)
        size = done.stdout.strip()
        wrong = int(done.code != 0 or not size.isdecimal() or int(size) > most_bytes)
        said = f"facts of {size} bytes." if done.code == 0 else done.stderr[-200:]
        return bounded(done.peak_mib, said, wrong=wrong)


def _section(name: str, content: str) -> str:
    return f'text = "@@0 clock 1.0\\n@@0 begin {name}\\n" + {content} + "\\n@@0 end {name} 0\\n@@0 over ALL\\n"'


_probe("a section of 30 MiB", _section("cpu", '"model name\\t: " + "X" * (30 << 20)'))
_probe("a million lines", _section("pci", '"0000:00:00.0 0x10de 0x2330 0x030200\\n" * 1_000_000'))
_probe(
    "entities in the XML of nvidia-smi that stand for 10^9 words",
    _section(
        "nvidia_smi",
        "'<!DOCTYPE n [<!ENTITY a \"lol\">' + ''.join(f'<!ENTITY {c} \"' + f'&{b};' * 10 + '\">' for b, c in zip('abcdefgh', "
        "'bcdefghij')) + ']><nvidia_smi_log><driver_version>&i;</driver_version></nvidia_smi_log>'",
    ),
)
_probe(
    "state.json with 100,000 lists in one another", _section("installed", '"@@0 file state.json\\n" + "[" * 100_000')
)
_probe("numbers with 100,000 digits", _section("memory", '"MemTotal: " + "9" * 100_000 + " kB"'))


def _inventory(did: str, text: str, *words: str) -> None:
    @case(GROUP, f"inventory: {did}", "refused with the file and a hint; the memory is bounded")
    def act(folder: Path) -> Outcome:
        (folder / "hosts.yml").write_text(ONE)
        (folder / "group_vars").mkdir()
        (folder / "group_vars/all.yml").write_text(text)
        done = firstlight("plan", "-i", str(folder), folder=folder)
        right = done.code == 2 and "hint:" in done.stderr and all(word in done.stderr for word in words)
        return bounded(done.peak_mib, done.stderr.partition("\n")[0], wrong=int(not right))


_inventory("YAML whose aliases stand for 9^9 values", BOMB, "all.yml", "aliases stand for")
_inventory("YAML that contains itself", "x: &x [1, [*x]]\n", "all.yml", "part of itself")
_inventory("200,000 YAML lists in one another", "x: " + "[" * 200_000, "all.yml", "64 lists")


@case(
    GROUP,
    "recorded facts with 100,000 JSON lists in one another, and of 64 MiB",
    "refused with the file; the memory is bounded",
)
def json_bomb(folder: Path) -> Outcome:
    (folder / "deep.json").write_text('{"host": ' + "[" * 100_000 + "]" * 100_000 + "}")
    (folder / "large.json").write_text(json.dumps({"host": "a", "probed_at": "x" * (SENT_MIB * MIB)}))
    done = [firstlight("plan", "--facts", name, folder=folder) for name in ("deep.json", "large.json")]
    traces = sum("Traceback" in ended.text for ended in done)
    accepted = int(done[0].code != 2)
    return bounded(
        max(one.peak_mib for one in done), f"{done[0].stderr.partition(chr(10))[0]}.", wrong=traces + accepted
    )


@case(
    GROUP, "a wheel whose metadata unpacks to 1 GiB: bill of materials", "the licence is unknown; the memory is bounded"
)
def metadata_bomb(folder: Path) -> Outcome:
    with (
        zipfile.ZipFile(folder / "a.whl", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a-1.dist-info/METADATA", "w", force_zip64=True) as member,
    ):
        for _ in range(1024):
            member.write(b"x" * MIB)
    call = (
        'from pathlib import Path\nfrom provision.phases.stage import sbom\nprint(list(sbom._metadata(Path("a.whl"))))'
    )
    done = python(call, folder=folder)
    return bounded(
        done.peak_mib, f"fields: {done.stdout.strip()}.", wrong=int(done.code != 0 or len(done.stdout) > 100)
    )


PATHS = ("../x", "..", "a/../../x", "/etc/passwd", "a\\..\\x", "x\0y", "x\ny", "\u202ex", "")


@case(
    GROUP,
    "names with `..`, `/`, `\\`, NUL and line ends: files of hubs and indexes, hashes, members of a bundle, hosts",
    "none becomes a path outside its folder",
)
def names(folder: Path) -> Outcome:
    store = Store(folder / "cache")
    accepted = [name for name in PATHS if is_safe_path(name)]
    for name in PATHS:
        refused(lambda name=name: store.path("0" * 64, name))  # type: ignore[misc]
        refused(lambda name=name: store.path(name, "a.whl"))  # type: ignore[misc]
    document = {"product": "1", "made_at": "", "classes": [], "cache_entries": [], "files": []}
    for name in PATHS:
        row = {"path": f"files/{name}", "sha256": "0" * 64, "size": 0}
        if "../" in f"{name}/" or name in {"", "x\0y"}:
            refused(lambda row=row: read_manifest(json.dumps({**document, "files": [row]}).encode(), "b"))  # type: ignore[misc]
        key = {"kind": "locks", "key": name, "value": {}}
        refused(lambda key=key: read_manifest(json.dumps({**document, "cache_entries": [key]}).encode(), "b"))  # type: ignore[misc]
    for name in ("../x", "a/b", "..", "x\x1b[2Jy"):
        (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": {name: {"ansible_connection": "local"}}}}))
        refused(lambda: load(folder / "hosts.yml"))
    stray = [path for path in folder.parent.glob("x*") if path.name == "x"]
    return Outcome(f"{len(PATHS)} names refused in 4 places, 4 names of hosts", len(accepted) + len(stray))


@case(GROUP, "a model's name with `..` that is neither a folder nor an id of a hub", "refused with a hint")
def model_name(folder: Path) -> Outcome:
    texts = []
    for name in ("org/../../x", "../../etc", "a/b/c"):
        try:
            stage_model(Settings(model=name), ClientSettings(no_index=True), Store(folder / "cache"))
        except FirstlightError as error:
            texts.append(error.text)
        else:
            raise AcceptedError(name)
    return Outcome(texts[0])
