"""The archive for a bug report: which files it has, which not, and under which names."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from provision.core.models.facts import OperatingSystem, Port, User
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.report import summarise, write
from provision.report.history.bundle import LARGEST, LIST, Pseudonyms, bundle, render
from tests.report.sample import GPU_STACK, Folder, facts

SECRET = "Zq7Rk2Lw9Xv4Bn6T"
NAMES = (
    "rechenknecht",
    "acme-labs",
    "heidi",
    "203.0.113.77",
    "10.20.30.41",
    "10.20.30.42",
    "fd00:ac3e::7",
    "leitstand",
)


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    """A run on two hosts behind a jump host."""
    jump = Connection(kind="ssh", address="203.0.113.77", user="heidi")
    hosts = [
        Host(
            name=f"rechenknecht-{number}",
            connection=Connection(
                kind="ssh", address=f"rechenknecht-{number}.acme-labs.example", user="heidi", proxy_jump=(jump,)
            ),
            settings=Settings(env={"NOTE": "plain"}),
        )
        for number in (1, 2)
    ]
    folder = Folder(tmp_path / "20261120T101500Z", hosts, source="/home/heidi/inventory")
    names = [host.name for host in hosts]
    folder.planned(names, GPU_STACK)
    folder.staged(names, GPU_STACK)
    for number, name in enumerate(names, 1):
        folder.green(name, gpus=1)
        seen = facts(name, gpus=1).model_copy(
            update={
                "os": OperatingSystem(hostname=f"{name}.intern.acme-labs.example", libc_version="2.39"),
                "user": User(name="heidi", uid=1000, home="/home/heidi"),
                "ports": (Port(port=22, address=f"10.20.30.4{number}"), Port(port=53, address="127.0.0.53")),
            }
        )
        folder.run.write(f"facts/{name}.json", seen)
    header = json.loads(folder.run.path("run.json").read_text())
    folder.run.write("run.json", header | {"user": "heidi", "controller": "leitstand"})
    folder.run.event(
        "result", host=names[0], phase="serve", status="failed", text="no route to 10.20.30.42 via fd00:ac3e::7"
    )
    log = f"sudo of heidi@rechenknecht-2: HF_TOKEN={SECRET}\nnvidia-curand 10.3.9.90\nsee /home/heidi/x\n"
    folder.run.path("install").mkdir()
    folder.run.path("install/ansible.log").write_text(log, encoding="utf-8")
    folder.run.path("stage/lock.txt").write_text("nvidia-curand==10.3.9.90\n", encoding="utf-8")
    write(folder.run, summarise(folder.run))
    return folder


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        assert all((entry.uid, entry.uname, entry.mtime) == (0, "", 0) for entry in archive.getmembers())
        return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}  # type: ignore[union-attr]


def test_the_archive_has_all_text_of_a_run_without_its_secrets(run: Folder, tmp_path: Path) -> None:
    made = bundle(run.run.folder, tmp_path / "x.tar.gz")
    texts = contents(made.path)
    root = f"firstlight-{run.run.name}"
    assert {f"{root}/run.json", f"{root}/summary.txt", f"{root}/install/ansible.log", f"{root}/{LIST}"} <= texts.keys()
    assert all(SECRET not in text for text in texts.values())
    assert "HF_TOKEN=[hidden]" in texts[f"{root}/install/ansible.log"]
    assert made.masked == ["install/ansible.log"]
    assert json.loads(texts[f"{root}/facts/rechenknecht-1.json"])["ports"][0]["address"] == "10.20.30.41"
    assert (made.path.stat().st_mode & 0o777) == 0o600


def test_omitted_files_are_listed_in_the_archive_and_on_the_terminal(run: Folder, tmp_path: Path) -> None:
    run.run.path("core").write_bytes(b"\x7fELF\xff\xfe")
    run.run.path("link").symlink_to("/etc/shadow")
    with run.run.path("huge.log").open("wb") as file:
        file.truncate(LARGEST + 1)
    made = bundle(run.run.folder, tmp_path / "x.tar.gz")
    texts = contents(made.path)
    listed = next(text for name, text in texts.items() if name.endswith(LIST))
    for name, reason in (("core", "not text"), ("link", "a link"), ("huge.log", "8.0 MiB")):
        assert not any(entry.endswith(f"/{name}") for entry in texts)
        assert any(line.strip().startswith(f"{name}: ") and reason in line for line in listed.splitlines())
        assert f"left out: {name}: " in render(made)


def test_an_anonymous_archive_names_no_host_and_only_the_user_sees_the_real_names(run: Folder, tmp_path: Path) -> None:
    made = bundle(run.run.folder, tmp_path / "x.tar.gz", anonymous=True)
    texts = contents(made.path)
    for where, text in texts.items():
        for name in NAMES:
            assert name not in text, f"{name} is in {where}"
            assert name not in where
    root = f"firstlight-{run.run.name}"
    assert f"{root}/facts/host-1.json" in texts
    one, two = (json.loads(texts[f"{root}/facts/host-{number}.json"]) for number in (1, 2))
    assert (one["host"], two["host"]) == ("host-1", "host-2")
    assert one["ports"][0]["address"] != two["ports"][0]["address"]
    assert one["ports"][1]["address"] == "127.0.0.53"
    event = json.loads(texts[f"{root}/events.jsonl"].splitlines()[-1])
    assert (event["host"], event["phase"], event["status"]) == ("host-1", "serve", "failed")
    assert two["ports"][0]["address"] in event["text"]
    assert "host-2 is rechenknecht-2" in render(made)


def test_a_version_with_four_parts_is_not_an_address(run: Folder, tmp_path: Path) -> None:
    texts = contents(bundle(run.run.folder, tmp_path / "x.tar.gz", anonymous=True).path)
    root = f"firstlight-{run.run.name}"
    assert texts[f"{root}/stage/lock.txt"] == "nvidia-curand==10.3.9.90\n"
    assert "nvidia-curand 10.3.9.90" in texts[f"{root}/install/ansible.log"]


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("gpu-1 and GPU-1, not gpu-10 nor my-gpu-1", "host-1 and host-1, not gpu-10 nor my-gpu-1"),
        ("ssh ops@gpu-1.acme.example", "ssh user-1@host-1.invalid"),
        ("mail.acme.example", "mail.domain-1.invalid"),
        ("http://192.168.7.3:8000/v1 at 10:15:09", "http://198.18.0.1:8000/v1 at 10:15:09"),
        ("192.168.7.3. Next", "198.18.0.1. Next"),
        ("[2001:67c::5]:22 and ::1", "[2001:db8::1]:22 and ::1"),
        ("0000:3b:00.0 is a GPU", "0000:3b:00.0 is a GPU"),
        ("ether 3c:ec:ef:12:34:56", "ether 02:00:00:00:00:00"),
        ("127.0.0.1 0.0.0.0 999.1.1.1 1.2.3.4.5", "127.0.0.1 0.0.0.0 999.1.1.1 1.2.3.4.5"),
        ("cp /home/ops/x as root@gpu-1", "cp /home/user-1/x as root@host-1"),
        ('"user": "ops", "driver": "580.65.06.01"', '"user": "user-1", "driver": "580.65.06.01"'),
        ("cublas 12.8.4.1", "cublas 12.8.4.1"),
    ],
)
def test_names_and_addresses_are_replaced(text: str, other: str) -> None:
    names = Pseudonyms({"gpu-1": ["gpu-1.acme.example"]}, users=["ops", "root"], versions=["12.8.4.1"])
    assert names.replace(text) == other


def test_an_address_of_the_inventory_is_replaced_though_it_looks_like_a_version() -> None:
    names = Pseudonyms({"a1": ["12.8.4.1"]}, versions=["12.8.4.1"])
    assert names.replace("12.8.4.1") == "198.18.0.1"


def test_a_name_has_the_same_replacement_everywhere() -> None:
    names = Pseudonyms({"gpu-1": []})
    assert names.replace("10.0.0.9 then 10.0.0.8") == "198.18.0.1 then 198.18.0.2"
    assert names.replace("10.0.0.8 gpu-1") == "198.18.0.2 host-1"
    assert names.given == {"10.0.0.9": "198.18.0.1", "10.0.0.8": "198.18.0.2", "gpu-1": "host-1"}
