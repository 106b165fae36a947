"""The kernel's log, read from the journal, and the meaning of its lines about cards."""

import json
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.verify.localhost import program
from tests.verify.test_devices import function
from verify.checks.devices import host as xid
from verify.host.views import kernel_log, pci
from verify.host.views.kernel_log import Line, of_journal
from verify.host.xid import Event, explained, meaning_of
from verify.host.xid import events as xid_events
from verify.records import CheckContext
from verify.runner.last_run import read_last_run, started_at
from verify.tables import table

JOURNAL = """\
1794990000.000104 gpu-7 kernel: Linux version 6.8.0-45-generic
1794990400.118230 gpu-7 kernel: NVRM: Xid (PCI:0000:1b:00): 31, pid=8123, name=python3, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS
-- Boot 3f --
1794990500.300000 gpu-7 kernel: NVRM: Xid (PCI:0000:43:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
1794990500.300400 gpu-7 kernel: nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)
1794990600.000000 gpu-7 kernel: NVRM: Xid (PCI:0000:43:00): 79, pid=911, name=nvidia-smi, GPU has fallen off the bus.
"""


def events(text: str = JOURNAL) -> list[Event]:
    return xid_events(of_journal(text.splitlines()))


def test_the_journal_gives_times_and_texts_with_events_of_cards_and_switches() -> None:
    found = list(of_journal(JOURNAL.splitlines()))
    assert found[0] == Line(1794990000.000104, "Linux version 6.8.0-45-generic")
    assert len(found) == 5
    assert [event[1:4] for event in events()] == [
        ("Xid", "0000:1b:00", 31),
        ("Xid", "0000:43:00", 79),
        ("SXid", "0000:c1:00.0", 12028),
        ("Xid", "0000:43:00", 79),
    ]


def test_a_new_fault_of_a_card_fails_with_its_meaning() -> None:
    outcome = xid.evaluate_xid(events(), known_until=0.0)
    assert outcome.status == "fail"
    assert (
        "Xid 79 on 0000:43:00: the GPU has fallen off the bus (new, last 2026-11-18 08:30:00Z, 2 times)"
        in outcome.reason
    )
    assert "Xid 31 on 0000:1b:00" in outcome.reason
    assert [figure.value for figure in outcome.figures] == [4, 4]


def test_events_of_earlier_runs_are_warnings_at_most() -> None:
    known = xid.evaluate_xid(events(), known_until=1794990700.0)
    assert (known.status, "known before this run" in known.reason) == ("warn", True)
    between = xid.evaluate_xid(events(), known_until=1794990550.0)
    assert between.status == "fail"
    assert "(new, last 2026-11-18 08:30:00Z)" in between.reason
    assert "known before this run, last 2026-11-18 08:28:20Z" in between.reason


def test_events_until_the_end_of_the_last_round_of_a_burn_in_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xid, "skip_without_cards", lambda *_: None)
    monkeypatch.setattr(kernel_log, "lines", lambda: list(of_journal(JOURNAL.splitlines())))
    (tmp_path / "verify").mkdir()
    run = {"started_at": "2026-11-10T00:00:00Z", "seconds": 7200.0}
    for last_round, status in ({}, "fail"), ({"started_at": "2026-11-18T08:00:00Z", "seconds": 3600.0}, "warn"):
        document = run | ({"last_round": last_round} if last_round else {})
        (tmp_path / "verify/last.json").write_text(json.dumps(document))
        assert xid.xid(CheckContext(prefix=tmp_path)).status == status


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("NVRM: Xid (PCI:0000:1b:00): 13, Graphics SM Warp Exception on (GPC 0, TPC 0): Out Of Range Address", "warn"),
        ("NVRM: Xid (0000:1b:00): 48, An uncorrectable double bit error (DBE) has been detected", "fail"),
        ("NVRM: Xid (PCI:0000:1b:00): 63, Row Remapper: New row marked for remapping", "ok"),
        ("NVRM: Xid (PCI:0000:1b:00): 999, something new", "warn"),
        ("NVRM: Xid (PCI:0000:04:00): 144, SAW_MVB Nonfatal XC0 i0 Link 00 (0x00000001 0x00000001 0x0 0x0)", "warn"),
        ("NVRM: Xid (PCI:0000:04:00): 144, SAW_MVB Fatal XC0 i0 Link 00 (0x00000001 0x00000002 0x0 0x0)", "fail"),
        (
            "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)",
            "fail",
        ),
        (
            "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
            "ok",
        ),
        ("NVRM: Xid (PCI:0000:04:00): 144, SAW_MVB Nonfatal XC0 i0 Link 00 (0x00000001 0x00000024 0x0 0x0)", "ok"),
        ("NVRM: Xid (PCI:0000:04:00): 144, SAW_MVB Nonfatal XC0 i0 Link 00 (0x00000001 0x00000025 0x0 0x0)", "warn"),
        ("NVRM: Xid (PCI:0000:1b:00): 158, pid=1, name=python, GPU Fatal Timeout", "fail"),
        ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 12 LTSSM Fault Up", "fail"),
        ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error", "warn"),
        ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 12023, Non-fatal, Link 46 egress output ECC limit", "ok"),
        ("nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 22003, Link 3 Minion Halt", "fail"),
        ("usb 1-1: new high-speed USB device number 2", "ok"),
    ],
)
def test_each_kind_of_event_has_its_weight(line: str, status: str) -> None:
    outcome = xid.evaluate_xid(xid_events([Line(1.0, line)]), known_until=0.0)
    assert outcome.status == status
    assert outcome.remedy or status == "ok"


@pytest.mark.parametrize(("kind", "status"), [("Fatal", "fail"), ("Non-fatal", "warn")])
def test_the_three_lines_of_a_switch_are_one_event(kind: str, status: str) -> None:
    """Of a number that no table has."""
    start = "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 29991, "
    texts = (f"{kind}, Link 12 new", "Severity 1 Engine instance 12 Sub-engine instance 00", "Data {0x00000001}")
    found = xid_events(Line(float(at), start + text) for at, text in enumerate(texts, 1))
    assert ([event.number for event in found], xid.evaluate_xid(found, known_until=0.0).status) == ([29991], status)


def test_every_row_of_the_table_has_a_known_kind_and_every_number_of_the_vendor_a_row() -> None:
    known = table("xid")
    rows = [*known["xid"].values(), *known["sxid"]]
    assert {row["kind"] for row in rows} == set(xid.NEW) == set(xid.KNOWN) == known["usual"].keys()
    texts = [*rows, *known["detail"], *known["nvlink"]]
    assert {row[key] for row in texts for key in ("now", "then") if key in row} < known["action"].keys()
    assert {key for row in known["nvlink"] for key in row.get("reasons", ())} < known["action"].keys()
    assert [int(number) for number in known["xid"]] == list(range(1, 173))
    switches = Counter(number for row in known["sxid"] for number in row["numbers"])
    assert len(switches) > 90
    assert set(switches.values()) == {1}


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("63, Row Remapper: New row (0x18f31d80) marked for remapping, reset gpu to activate.", "with the next reset"),
        ("154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", "do: reboot the host"),
        (
            "149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000 0x0 0x0)",
            "reboot; if it comes back, look at the connectors",
        ),
        (
            "149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x020505c6 0x00000000 0x0 0x0)",
            "comes back, look at the device at the other end",
        ),
        (
            "145, RLW_REMAP Nonfatal XC0 i0 Link 02 (0x00000004 0x00000004 0x0 0x0)",
            "what the next Xid 154 of this GPU asks for",
        ),
        ("5, Ch 00000003", "a number that the vendor calls unused. What to do: report it"),
    ],
)
def test_the_text_of_an_event_says_more_than_its_number(text: str, meaning: str) -> None:
    assert meaning in str(explained(f"NVRM: Xid (PCI:0000:1b:00): {text}"))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (13, "restart the process"),
        (62, "nvidia-smi --gpu-reset"),
        (79, "switch the host off and on"),
        (54, "power cables"),
    ],
)
def test_an_event_names_what_to_do(number: int, remedy: str) -> None:
    line = Line(1.0, f"NVRM: Xid (PCI:0000:1b:00): {number}, text")
    assert remedy in str(xid.evaluate_xid(xid_events([line]), known_until=0.0).remedy)


def test_the_last_run_is_the_one_stored_in_the_installation(tmp_path: Path) -> None:
    kept = tmp_path / "verify" / "last.json"
    assert started_at(read_last_run(None)) == started_at(read_last_run(tmp_path)) == 0.0
    kept.parent.mkdir()
    for broken in ("", "[]", '{"started_at": 7}'):
        kept.write_text(broken)
        assert started_at(read_last_run(tmp_path)) == 0.0
    kept.write_text(json.dumps({"started_at": "2026-11-18T10:30:00.000Z"}))
    assert started_at(read_last_run(tmp_path)) == 1794997800.0


def test_an_empty_journal_does_not_count_as_a_quiet_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who is in neither group: no line, exit code 0."""
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path / "journalctl", "exit 0")
    assert kernel_log.lines() == []
    program(tmp_path / "journalctl", f"/bin/cat <<'E'\n{JOURNAL}E")
    assert len(kernel_log.lines()) == 5


def test_what_the_last_run_saw_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last event of the journal is of 08:30:00, and the run began at 08:29:30."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(xid, "skip_without_cards", lambda *_: None)
    program(tmp_path / "journalctl", f"/bin/cat <<'E'\n{JOURNAL}E")
    (tmp_path / "verify").mkdir()
    for seconds, status in ((20.0, "fail"), (40.0, "warn")):
        last = {"started_at": "2026-11-18T08:29:30.000Z", "seconds": seconds}
        (tmp_path / "verify/last.json").write_text(json.dumps(last))
        assert xid.xid(CheckContext(prefix=tmp_path)).status == status


AMD = """\
1794990000.000104 gpu-8 kernel: amdgpu 0000:83:00.0: amdgpu: SRAM ECC is active.
1794990100.000000 gpu-8 kernel: amdgpu 0000:83:00.0: amdgpu: [gfxhub0] no-retry page fault (src_id:0 ring:24 vmid:3 pasid:32771)
1794990101.000000 gpu-8 kernel: amdgpu 0000:83:00.0: amdgpu: ring comp_1.0.0 timeout, signaled seq=42, emitted seq=44
1794990102.000000 gpu-8 kernel: amdgpu 0000:83:00.0: amdgpu: ring sdma0 timeout, but soft recovered
1794990200.000000 gpu-8 kernel: amdgpu 0000:84:00.0: amdgpu: socket: 1, die: 0, 12 new correctable hardware errors detected in umc block
1794990201.000000 gpu-8 kernel: amdgpu 0000:84:00.0: amdgpu: {7}socket: 1, die: 0, 1 new uncorrectable hardware errors detected in gfx block
1794990202.000000 gpu-8 kernel: amdgpu 0000:84:00.0: amdgpu: GPU reset begin!. Source:  4
1794990203.000000 gpu-8 kernel: amdgpu 0000:84:00.0: amdgpu: device lost from bus!
"""
"""The forms of the driver's messages with values of ours. No AMD GPU was at hand."""


def test_messages_of_amds_driver_are_events() -> None:
    found = events(AMD)
    kinds = [(event.pci[5:7], meaning_of(event).kind) for event in found]
    of_work = [("83", "process"), ("83", "process"), ("83", "note")]
    assert kinds == [*of_work, ("84", "note"), ("84", "card"), ("84", "process"), ("84", "card")]
    outcome = xid.evaluate_xid(found, known_until=0.0)
    assert outcome.status == "fail"
    assert "amdgpu on 0000:84:00.0: the GPU has fallen off the bus (new, last 2026-11-18 08:23:23Z)" in outcome.reason
    old = xid.evaluate_xid(found, known_until=found[-1].at)
    assert old.status == "warn"
    said = explained(found[4].text)
    assert said is not None
    assert said.startswith("amdgpu: a part of the GPU has an error that it cannot correct. What to do: ")


@pytest.mark.parametrize(
    ("chip", "variant", "status"),
    [("0x164e", "cu130", "ok"), ("0x74a1", "cu130", "fail"), ("0x164e", "rocm7.2", "fail")],
    ids=["graphics of a Ryzen", "MI300X", "graphics that serve"],
)
def test_a_fault_of_graphics_that_do_not_compute_is_none_of_a_gpu(
    chip: str, variant: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function(tmp_path, "0000:0e:00.0", "0x1002", "0x030000", chip)
    function(tmp_path, "0000:1b:00.0", "0x10de", "0x030200", "0x2330")
    monkeypatch.setattr(pci, "gpus", partial(pci.gpus, devices=tmp_path))
    line = Line(1.0, "amdgpu 0000:0e:00.0: amdgpu: Fatal error during GPU init")
    monkeypatch.setattr(kernel_log, "lines", lambda: [line])
    assert xid.xid(CheckContext(expect={"stack": {"torch": {"variant": variant}}})).status == status


def test_each_row_of_amds_driver_has_known_actions() -> None:
    known = table("amdgpu")
    for row in known["event"]:
        keys = [row["now"], *([row["then"]] if "then" in row else [])] if "now" in row else known["usual"][row["kind"]]
        assert {*keys} <= {*known["action"]}, row["pattern"]
