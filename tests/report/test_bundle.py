"""The archive for a bug report: which files it has, and which not."""

import json
import tarfile
from pathlib import Path

import pytest

from provision.core.models.facts import Port
from provision.report import summarise, write
from provision.report.history.bundle import LARGEST, LIST, bundle, render
from tests.report.sample import GPU_STACK, Folder, facts, host

SECRET = "Zq7Rk2Lw9Xv4Bn6T"


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    """A run on two hosts, with a secret in a log."""
    hosts = [host("rechenknecht-1"), host("rechenknecht-2")]
    folder = Folder(tmp_path / "20261120T101500Z", hosts, source="/home/heidi/inventory")
    names = [one.name for one in hosts]
    folder.planned(names, GPU_STACK)
    folder.staged(names, GPU_STACK)
    for number, name in enumerate(names, 1):
        folder.green(name, gpus=1)
        seen = facts(name, gpus=1).model_copy(update={"ports": (Port(port=22, address=f"10.20.30.4{number}"),)})
        folder.run.write(f"facts/{name}.json", seen)
    log = f"sudo of heidi@rechenknecht-2: HF_TOKEN={SECRET}\nsee /home/heidi/x\n"
    folder.run.path("install").mkdir()
    folder.run.path("install/ansible.log").write_text(log, encoding="utf-8")
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


def test_hosts_that_are_named_like_secrets_keep_their_results(run: Folder, tmp_path: Path) -> None:
    run.run.path("phases.json").write_text('{"llm-auth": {"probe": {"status": "ok"}}, "token": {}}')
    run.run.path("planned_changes.json").write_text('{"llm-auth": [{"text": "new"}]}')
    made = bundle(run.run.folder, tmp_path / "x.tar.gz")
    assert not {"phases.json", "planned_changes.json"} & {*made.masked}


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
