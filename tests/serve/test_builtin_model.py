"""Creation of the built-in model, as far as it works without torch; the fleet test creates and serves the whole model."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from provision.phases.serve.onhost import builtin_model
from verify.binaries import manifest

Made = tuple[Path, Path]
ANSWER: dict[str, Any] = {
    "prompt": builtin_model.prompt_tokens(),
    "tokens": list(range(32)),
    "gaps": [0.3] * 32,
    "logprobs": [-1.0] * 32,
}


WEIGHTS = b"weights"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """A finished model and its reference, with arbitrary bytes as weights."""
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    monkeypatch.setattr(builtin_model, "WEIGHTS_SHA256", digest)
    monkeypatch.setattr(builtin_model, "safetensors_bytes", lambda: WEIGHTS)
    folder = tmp_path / "builtin-1"
    builtin_model.make(folder, None)
    reference = folder / "reference-abc.json"
    reference.write_text(json.dumps({"sha256": digest, **ANSWER}))
    return folder, reference


def run(folder: Path, reference: Path) -> int:
    """Run the program as it runs on a host."""
    return builtin_model.main(["--folder", str(folder), "--reference", str(reference)])


def test_the_account_of_the_service_may_enter_the_folder_whatever_the_umask_is(made: Made, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        builtin_model.make(tmp_path / "other", None)
    finally:
        os.umask(before)
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o755


def test_a_second_run_changes_nothing_and_needs_no_torch(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*made) == 0
    assert json.loads(capsys.readouterr().out) == {"changed": False}


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"Weights"), ("config.json", None), ("tokenizer.json", b"{}\n")],
)
def test_a_file_that_changed_on_disk_is_made_again(made: Made, name: str, content: bytes | None) -> None:
    folder, _ = made
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / name).write_bytes(content) if content is not None else (folder / name).unlink()
    assert builtin_model.make(folder, None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not builtin_model.make(folder, None)


def test_an_unknown_file_is_removed_and_reference_answers_stay(made: Made) -> None:
    folder, reference = made
    (folder / "generation_config.json").write_text('{"temperature": 2}')
    assert builtin_model.make(folder, None)
    assert reference.exists()
    assert not (folder / "generation_config.json").exists()


def test_no_reference_is_computed_with_a_damaged_model(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reference = made
    (folder / "model.safetensors").write_bytes(b"zeroed!")

    def computed(of: Path) -> dict[str, Any]:
        assert (of / "model.safetensors").read_bytes() == WEIGHTS
        return ANSWER

    monkeypatch.setattr(builtin_model, "reference_of", computed)
    assert run(folder, reference.with_name("reference-def.json")) == 0


def test_the_files_are_listed_next_to_their_folder(made: Made) -> None:
    folder, _ = made
    listed = manifest.listed(folder.with_name("builtin-1.manifest.txt"), folder) or {}
    names = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {Path(path).name for path in listed} == names
    assert manifest.compare(listed, folder, None, manifest.STAMPS, whole=True).wrong == {}


def test_an_answer_to_an_older_prompt_is_computed_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, reference = made
    reference.write_text(json.dumps(json.loads(reference.read_text()) | {"prompt": [builtin_model.BOS, 65]}))
    monkeypatch.setattr(builtin_model, "reference_of", lambda _folder: ANSWER)
    assert builtin_model.make(folder, reference)
    assert json.loads(reference.read_text())["prompt"] == builtin_model.prompt_tokens()


def test_weights_other_than_the_known_ones_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin_model, "safetensors_bytes", lambda: b"computed wrongly")
    assert run(tmp_path / "m", tmp_path / "r.json") == 1
    assert "this machine computes wrongly" in capsys.readouterr().err
    assert not (tmp_path / "m" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("tokens", "gaps", "reason"),
    [
        (list(range(32)), [0.05] * 32, ""),
        ([1, 2] * 16, [0.5] * 32, "2 distinct tokens"),
        (list(range(32)), [*[0.5] * 31, 0.04], "a smallest gap of 0.04"),
    ],
    ids=["enough", "two-tokens-in-turn", "gap-too-small"],
)
def test_an_answer_is_a_proof_only_with_many_tokens_and_clear_gaps(
    made: Made,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    tokens: list[int],
    gaps: list[float],
    reason: str,
) -> None:
    folder, reference = made
    monkeypatch.setattr(builtin_model, "reference_of", lambda _folder: ANSWER | {"tokens": tokens, "gaps": gaps})
    assert run(folder, reference.with_name("reference-def.json")) == bool(reason)
    said = capsys.readouterr()
    assert reason in said.err
    assert ('"changed": true' in said.out) is not bool(reason)
    assert reference.with_name("reference-def.json").exists() is not bool(reason)


def test_the_vocabulary_names_every_id_once() -> None:
    entries, merges = builtin_model.vocabulary()
    assert sorted(entries.values()) == list(range(builtin_model.BOS))
    assert all(a + b in entries for a, b in merges)


def test_the_shapes_are_those_of_the_configuration() -> None:
    config = builtin_model.configuration()
    shapes = {name: shape for name, shape, _ in builtin_model.weight_shapes()}
    assert config["num_attention_heads"] % 8 == config["num_key_value_heads"] % 8 == 0
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == (
        config["num_attention_heads"] * config["head_dim"],
        config["hidden_size"],
    )
    assert shapes["lm_head.weight"] == (config["vocab_size"], config["hidden_size"])
    assert len(shapes) == 3 + 9 * config["num_hidden_layers"]


def test_the_prompt_consists_of_the_bytes_of_its_text() -> None:
    first, *rest = builtin_model.prompt_tokens()
    assert first == builtin_model.BOS
    assert bytes(rest).decode() == builtin_model.PROMPT_TEXT
