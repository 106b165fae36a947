"""The model's files compared with their manifest, with a folder of real files."""

import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from verify.binaries.manifest import STAMPS, ComparedFiles, listed
from verify.checks.serving.answer import MARKS, check_model
from verify.checks.serving.answer import evaluate_model as evaluate
from verify.serving import client
from verify.serving.service import Service
from verify.tables import table

SOUND = ComparedFiles(3, 3)
FILES = {"config.json": b'{"rope_theta": 10000.0}', "model.safetensors": bytes(range(256)), "sub/tokenizer.json": b"[]"}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    folder = tmp_path / "models" / "m"
    lines = []
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        lines.append(f"{zlib.crc32(content):08x} {len(content)} {name}\n")
    (tmp_path / "models" / "m.manifest.txt").write_text("".join(lines))
    (folder / "reference-ab12.json").write_text("{}")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "service.env").write_text("VLLM_API_KEY=k\n")
    answer = {"data": [{"id": "m", "root": str(folder)}]}
    monkeypatch.setattr(client.Client, "get", lambda *_: answer)
    return Service(tmp_path, {"model_folder": str(folder), "served_name": "m", "host": "127.0.0.1", "port": 1}, None)


def checked(service: Service, *, whole: bool = False) -> Any:
    folder = Path(service.readiness["model_folder"])
    contents = listed(folder.with_name("m.manifest.txt"), folder)
    assert contents is not None
    return check_model(service, folder, contents, whole=whole)


def test_a_model_as_installed_passes(service: Service) -> None:
    outcome = checked(service)
    assert outcome.status == "ok"
    assert "3 files of" in outcome.reason
    assert "3 of them by content; the endpoint serves them as m" in outcome.reason


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", bytes([1, *range(1, 256)]), "its content is not the recorded one"),
        ("config.json", b'{"rope_theta": 20000.0}', "its content is not the recorded one"),
        ("sub/tokenizer.json", b"[0]", "3 bytes, recorded 2"),
        ("generation_config.json", b"{}", "nobody installed it"),
    ],
)
def test_a_changed_bit_setting_or_size_and_an_added_file_are_found_and_named(
    service: Service, name: str, content: bytes, words: str
) -> None:
    path = Path(service.readiness["model_folder"]) / name
    path.write_bytes(content)
    outcome = checked(service)
    assert (outcome.status, outcome.reason) == ("fail", f"{path}: {words}")
    assert checked(service).status == "fail", "a wrong file is read again, and stays wrong"


def test_a_large_file_is_read_once_after_a_change_of_its_metadata_and_at_full(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table("serving")["model"], "small_bytes", 0)

    def read(*, whole: bool = False) -> float | None:
        figures: dict[str, float | None] = {
            figure.name: figure.value for figure in checked(service, whole=whole).figures
        }
        return figures["read"]

    assert (read(), read(), read(whole=True)) == (3, 0, 3)
    os.utime(Path(service.readiness["model_folder"]) / "config.json")
    assert (read(), read()) == (1, 0)


def test_a_model_of_links_to_a_shared_folder_is_compared_by_what_they_lead_to(service: Service, tmp_path: Path) -> None:
    path = Path(service.readiness["model_folder"]) / "model.safetensors"
    shared = path.rename(tmp_path / "shared.safetensors")
    path.symlink_to(shared)
    assert checked(service).status == "ok"
    shared.write_bytes(bytes([1, *range(1, 256)]))
    assert checked(service).reason == f"{path}: its content is not the recorded one"


def test_records_of_the_model_and_of_the_environment_are_separate(service: Service) -> None:
    checked(service)
    assert (service.prefix / MARKS).is_file()
    assert not (service.prefix / STAMPS).exists()


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ({"data": [{"id": "m", "root": "/tmp/x"}]}, "the endpoint serves /tmp/x as m, planned /p/models/m"),
        ({"data": [{"id": "n", "root": "/p/models/m"}]}, "the endpoint serves n, planned m"),
        ({"data": []}, "the endpoint serves no model, planned m"),
    ],
)
def test_another_model_behind_the_endpoint_is_found(endpoint: Any, words: str) -> None:
    outcome = evaluate("/p/models/m", "m", SOUND, endpoint=endpoint)
    assert (outcome.status, outcome.reason) == ("fail", words)


def test_an_endpoint_without_an_answer_is_left_to_the_check_of_answers() -> None:
    outcome = evaluate("/p/models/m", "m", SOUND)
    assert outcome.status == "ok"
    assert "did not name its model" in outcome.reason
