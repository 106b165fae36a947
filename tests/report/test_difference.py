"""Differences between two runs: which count, which do not, and with which earlier run a run is compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import (
    NOT_ASKED,
    BusDevice,
    Disk,
    HostFacts,
    Installed,
    Memory,
    OperatingSystem,
    Port,
    Topology,
)
from provision.core.models.records import Change, HostDifference
from provision.report import summarise, write
from provision.report.difference import compare_runs, last_green
from provision.report.difference.compare import HostRecords, differences, read_records
from provision.report.difference.text import render, sentence
from tests.report.sample import Folder, check, checks, document, facts, host, ran, result, served

GIB = 2**30


def between(one: dict[str, Any], two: dict[str, Any]) -> HostDifference:
    """Return how the records of a host differ in two runs."""
    [found] = differences({"a": HostRecords(host="a", run="1", **one)}, {"a": HostRecords(host="a", run="2", **two)})
    return found


def differing(one: HostFacts, two: HostFacts) -> dict[str, tuple[Any, Any]]:
    found = between({"facts": one}, {"facts": two})
    return {change.name: (change.before, change.after) for change in found.changes if change.part == "facts"}


def changed(**values: Any) -> HostFacts:
    return facts("a", gpus=2).model_copy(update=values)


def test_an_unchanged_host_has_no_difference() -> None:
    assert differing(changed(), changed()) == {}


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"probed_at": "2026-11-20T10:15:00Z", "seconds": 0.4}, {"probed_at": "2026-11-21T10:15:00Z", "seconds": 0.9}),
        ({"memory": Memory(total=64 * GIB, available=60 * GIB)}, {"memory": Memory(total=64 * GIB, available=9 * GIB)}),
        ({"memory": Memory(total=64 * GIB)}, {"memory": Memory(total=64 * GIB - 2**26)}),
        ({"disks": (Disk(path="/", free=90 * GIB),)}, {"disks": (Disk(path="/", free=60 * GIB),)}),
        (
            {"ports": (Port(port=22, address="0.0.0.0", pid=811),)},
            {"ports": (Port(port=22, address="0.0.0.0", pid=902),)},
        ),
        ({"ports": ()}, {"ports": (Port(port=8000, address="0.0.0.0", pid=5, process="nginx"),)}),
        ({"kernel_modules": ("nvidia", "nvidia_uvm")}, {"kernel_modules": ("nvidia_uvm", "nvidia")}),
        ({"incoming": {"wheel.whl.part": 7}}, {"incoming": {}}),
        (
            {"installed": Installed(prefix="/opt/firstlight")},
            {"installed": Installed(prefix="/opt/firstlight", models=("m-0a",), model_files={"m-0a": ("w",)})},
        ),
    ],
    ids=["clock", "memory in use", "kernel's share", "disk in use", "pid", "port", "order", "sent files", "models"],
)
def test_values_that_always_change_are_no_difference(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert differing(changed(**one), changed(**two)) == {}


def test_what_one_run_did_not_ask_for_is_no_difference() -> None:
    full = changed(ports=(Port(port=22, address="0.0.0.0"),))
    ordinary = changed(unknown={"ports": NOT_ASKED})
    assert differing(full, ordinary) == differing(ordinary, full) == {}


@pytest.mark.parametrize(
    ("one", "two", "name", "values"),
    [
        (
            {"os": OperatingSystem(kernel="6.1.0-25-amd64")},
            {"os": OperatingSystem(kernel="6.1.0-28-amd64")},
            "os.kernel",
            ("6.1.0-25-amd64", "6.1.0-28-amd64"),
        ),
        ({"memory": Memory(total=64 * GIB)}, {"memory": Memory(total=48 * GIB)}, "memory.total", (64 * GIB, 48 * GIB)),
        (
            {"disks": (Disk(path="/", free=90 * GIB), Disk(path="/data", free=9))},
            {"disks": (Disk(path="/data", free=9), Disk(path="/", free=GIB))},
            "disks[/].free",
            (90 * GIB, GIB),
        ),
        ({"kernel_modules": ("nouveau", "x")}, {"kernel_modules": ("nvidia", "x")}, "kernel_modules", (["nouveau"], ["nvidia"])),
        ({"libraries": {"libnuma.so.1": "/usr/lib/libnuma.so.1"}}, {"libraries": {"libnuma.so.1": None}}, "libraries.libnuma.so.1", ("/usr/lib/libnuma.so.1", None)),
        ({"secure_boot": False}, {"secure_boot": True}, "secure_boot", (False, True)),
        ({"nvidia": None}, {}, "nvidia", (None, "580.65.06")),
        ({"unknown": {}}, {"unknown": {"nvidia": "nvidia-smi hung"}}, "unknown.nvidia", (None, "nvidia-smi hung")),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_changes_by_a_person_are_a_difference(
    one: dict[str, Any], two: dict[str, Any], name: str, values: tuple[Any, Any]
) -> None:
    assert differing(changed(**one), changed(**two)) == {name: values}


def test_a_missing_card_is_one_difference() -> None:
    whole = changed()
    assert whole.nvidia
    cards = [card.model_copy(update={"pci_address": f"0000:{card.index}b:00.0"}) for card in whole.nvidia.gpus]
    both = changed(nvidia=whole.nvidia.model_copy(update={"gpus": tuple(cards)}))
    # the one that is left is now the first
    one = changed(nvidia=whole.nvidia.model_copy(update={"gpus": (cards[1].model_copy(update={"index": 0}),)}))
    assert differing(both, one) == {"nvidia.gpus[0000:0b:00.0]": ("NVIDIA H100 80GB HBM3", None)}


def test_a_device_that_is_gone_changes_no_other() -> None:
    devices = tuple(BusDevice(address=f"0000:0{n}:00.0", kind="card", name="H100", numa_node=n) for n in range(3))
    before, after = (changed(topology=Topology(devices=there)) for there in (devices, devices[1:]))
    assert differing(before, after) == {"topology.devices[0000:00:00.0]": ("H100", None)}


def test_a_new_boot_is_described_in_words() -> None:
    one, two = ({"facts": changed(os=OperatingSystem(boot_id=boot))} for boot in ("5c1e", "90fa"))
    found = between(one, two)
    assert [sentence(change) for change in found.changes] == ["the host was started anew"]


LOCK = "torch==2.13.0 \\\n    --hash=sha256:{0}\nnumpy==2.3.1 \\\n    --hash=sha256:{1}\n"


def run(logs: Path, name: str, lock: str = LOCK.format("a" * 64, "b" * 64), **settings: Any) -> Folder:
    folder = ran(logs / name, **settings)
    folder.run.path("stage/lock.txt").write_text(lock, encoding="utf-8")
    return folder


def end(folder: Folder) -> None:
    write(folder.run, summarise(folder.run))


def measured(folder: Folder, status: str, value: float) -> None:
    rate = {"name": "copy", "value": value, "unit": "GB/s"}
    records = [*checks(), check("memory.speed", status, device="cuda:0", reason="slow", figures=[rate])]
    folder.run.write("verify/a.json", document(records))


def test_lock_settings_and_checks_are_compared(tmp_path: Path) -> None:
    measured(run(tmp_path, "20261119T080000Z"), "ok", 1500.0)
    newer = LOCK.format("a" * 64, "c" * 64).replace("2.13.0", "2.14.0") + "vllm==0.33.0 --hash=sha256:" + "d" * 64
    measured(run(tmp_path, "20261120T080000Z", port=8100, lock=newer), "warn", 1100.0)
    [found] = compare_runs(tmp_path, "20261119T080000Z", "20261120T080000Z")
    assert [(change.part, change.name, change.before, change.after) for change in found.changes] == [
        ("settings", "port", 8000, 8100),
        ("lock", "numpy", "2.3.1 (sha256 bbbbbbbbbbbb)", "2.3.1 (sha256 cccccccccccc)"),
        ("lock", "torch", "2.13.0", "2.14.0"),
        ("lock", "vllm", None, "0.33.0"),
        ("checks", "memory.speed on cuda:0", "ok", "warn"),
        ("figures", "memory.speed on cuda:0: copy", 1500.0, 1100.0),
    ]
    assert "1500 -> 1100 GB/s (-27%)" in render([found])


def test_a_figure_within_its_noise_is_no_difference(tmp_path: Path) -> None:
    measured(run(tmp_path, "20261119T080000Z"), "ok", 1500.0)
    measured(run(tmp_path, "20261120T080000Z"), "ok", 1430.0)
    assert compare_runs(tmp_path, "20261119T080000Z")[0].changes == ()


def test_times_counts_and_unbounded_speeds_of_a_cpu_are_no_difference(tmp_path: Path) -> None:
    for name, factor in (("20261119T080000Z", 1.0), ("20261120T080000Z", 3.0)):
        folder = run(tmp_path, name)
        bare = {"value": 2.0 * factor}
        records = [
            check("speed.gemm", figures=[{**bare, "name": "bfloat16 products", "unit": "TFLOP/s"}]),
            check("libraries.files", device=None, figures=[{**bare, "name": "bytes", "unit": "B"}]),
            check("serving.process", device=None, figures=[{**bare, "name": "runs for", "unit": "s"}]),
            check(
                "devices.xid", device=None, figures=[{**bare, "name": "new events", "unit": "count", "ceiling": 9.0}]
            ),
        ]
        folder.run.write("verify/a.json", document(records))
        phases = {phase: seconds * factor for phase, seconds in served().startup_s.items()}
        folder.run.write("serve/a.json", served().model_copy(update={"startup_s": phases}))
    [found] = compare_runs(tmp_path, "20261119T080000Z")
    assert [change.name for change in found.changes] == ["devices.xid: new events"], "the one with a bound"


@pytest.mark.parametrize(
    ("one", "two", "reported"),
    [
        ("serving", "unchanged", False),
        ("planned", "probed", False),
        ("serving", "failed", True),
        ("serving", "stopped", True),
    ],
)
def test_a_changed_state_of_a_host_is_a_difference(one: str, two: str, *, reported: bool) -> None:
    found = between({"state": one}, {"state": two})
    assert [sentence(change) for change in found.changes] == ([f"{one} -> {two}"] if reported else [])


def test_parts_that_a_run_did_not_reach_are_unknown_and_no_change(tmp_path: Path) -> None:
    end(run(tmp_path, "20261119T080000Z"))
    folder = Folder(tmp_path / "20261120T080000Z", [host("a", local=True)], source="inventory/local")
    folder.results(result("a", "probe", "unreachable", text="no answer"))
    [found] = compare_runs(tmp_path)
    assert [change.part for change in found.changes] == ["state"]
    assert found.unknown == ("stack, lock, facts, checks: not in run 20261120T080000Z",)


def test_each_host_is_compared_with_its_last_green_run(tmp_path: Path) -> None:
    end(run(tmp_path, "20261118T080000Z"))
    amber = run(tmp_path, "20261119T080000Z")
    amber.run.write("verify/a.json", document([check("host.clock", "warn", reason="41 s off")]))
    end(amber)
    killed = run(tmp_path, "20261119T090000Z")
    killed.results(result("a", "serve", "interrupted"))
    only_looked = Folder(tmp_path / "20261119T100000Z", [host("a")])
    only_looked.results(result("a", "probe"))
    end(only_looked)
    found = last_green(tmp_path, "20261120T080000Z", ["a", "b"])
    assert {name: records.run for name, records in found.items()} == {"a": "20261118T080000Z"}
    assert last_green(tmp_path, "20261118T080000Z", ["a"]) == {}


def test_a_host_at_another_address_is_another_one_whatever_its_name(tmp_path: Path) -> None:
    end(run(tmp_path, "20261118T080000Z"))
    Folder(tmp_path / "20261119T080000Z", [host("a")])
    Folder(tmp_path / "20261120T080000Z", [host("a", local=True)])
    assert last_green(tmp_path, "20261119T080000Z", ["a"]) == {}
    assert last_green(tmp_path, "20261120T080000Z", ["a"]).keys() == {"a"}


def test_the_own_machine_of_another_controller_is_another_host(tmp_path: Path) -> None:
    end(run(tmp_path, "20261118T080000Z"))
    folder = Folder(tmp_path / "20261119T080000Z", [host("a", local=True)]).run.folder
    assert last_green(tmp_path, "20261119T080000Z", ["a"]).keys() == {"a"}
    header = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**header, "controller": "another"}))
    assert last_green(tmp_path, "20261119T080000Z", ["a"]) == {}


def test_a_failed_run_shows_what_changed(tmp_path: Path) -> None:
    end(run(tmp_path, "20261119T080000Z"))
    folder = run(tmp_path, "20261120T080000Z", port=8100)
    folder.results(result("a", "serve", "failed", text="port 8100 is taken"))
    text = folder.text()
    head = text[: text.index("\nHosts")]
    assert "settings: port: 8000 -> 8100" in head
    assert "since run 20261119T080000Z" in head
    [entry] = folder.json()["hosts"]
    assert {"part": "settings", "name": "port", "before": 8000, "after": 8100, "unit": None, "text": None} in entry[
        "since_green"
    ]["changes"]


def test_a_green_run_shows_no_changes(tmp_path: Path) -> None:
    end(run(tmp_path, "20261119T080000Z"))
    folder = run(tmp_path, "20261120T080000Z", port=8100)
    assert "Changed since" not in folder.text()
    assert folder.json()["hosts"][0]["since_green"] is None


def test_hosts_with_the_same_changes_are_shown_once() -> None:
    change = Change(part="facts", name="os.kernel", before="6.1", after="6.6")
    found = [HostDifference(host=f"gpu-{n}", before="1", after="2", changes=(change,)) for n in range(1, 41)]
    assert render(found).splitlines() == [
        "gpu-[1:40]: 1 changed from run 1 to run 2",
        "  facts: os.kernel: 6.1 -> 6.6",
    ]


def test_a_missing_earlier_run_is_reported() -> None:
    found = differences({}, {"a": HostRecords(host="a", run="2")})
    assert "nothing to compare with before run 2" in render(found)


def test_an_incomplete_folder_can_be_read(tmp_path: Path) -> None:
    folder = run(tmp_path, "20261119T080000Z")
    folder.run.path("facts/a.json").write_text("{", encoding="utf-8")
    folder.run.path("stage/lock.txt").unlink()
    records = read_records(folder.run.folder)["a"]
    assert records.facts is None
    assert records.lock == {}
