"""Hosts and files that answer what nobody expects: endless output, bombs. The memory of each process is bounded."""

from __future__ import annotations

from pathlib import Path

from benchmarks.security_cases.rows import Outcome, case, firstlight, python
from provision.fleet.ssh.session import READ_BYTES, RUN_BYTES
from tests.inventory.test_hostile import BOMB, ONE

GROUP = "hostile host"
MIB = 2**20
BOUND_MIB = 400.0
"""Memory of a process that a hostile answer may cause at most, the 100 to 150 MiB of an ordinary command included."""

RUN = """
import os
from provision.core.errors import FirstlightError
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.fleet.ssh import open_session
session = open_session(Host(name="here", connection=Connection(kind="local"), settings=Settings()))
os.system("{command}")
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


def _answer(did: str, limit: int, command: str, call: str) -> None:
    @case(GROUP, did, f"broken off at the limit of {limit // MIB} MiB; the memory is bounded")
    def act(folder: Path) -> Outcome:
        done = python(RUN.format(command=command, call=call), folder=folder)
        return bounded(done.peak_mib, done.stdout.partition("\n")[0], wrong=int("printed more than" not in done.stdout))


_answer("a command of the product is answered with 64 MiB", RUN_BYTES, "true", 'session.run("head -c 64M /dev/zero")')
_answer(
    "a file of a host has 1 GiB, where the product reads it whole",
    READ_BYTES,
    "truncate --size 1G large",
    'session.read(os.path.abspath("large"))',
)


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
