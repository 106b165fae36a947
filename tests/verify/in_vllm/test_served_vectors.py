"""Embedding models and rerankers, made at random, served by vLLM itself on this CPU: the proof of readiness and the checks pass, and notice each fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from provision.phases.serve.onhost import builtin_model
from provision.phases.serve.onhost.ready.reference import wait_for
from provision.phases.serve.onhost.ready.service import ReadinessRequest
from provision.phases.serve.onhost.ready.vectors import check_vectors
from provision.phases.serve.onhost.vectors import reference_of
from tests.verify.in_vllm.engine_server import started
from verify.checks.serving import answer
from verify.serving.answers import NotProvenError
from verify.serving.client import Client
from verify.serving.contract import Asker, ask_all
from verify.serving.service import Service

BERT: dict[str, Any] = {
    "vocab_size": builtin_model.VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
    "pad_token_id": builtin_model.PAD,
    # The default of 0.02 gives all texts nearly the same vector.
    "initializer_range": 0.1,
}
POOLED = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
MODES = {"word_embedding_dimension": 128, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
FAULTS = {"embed": ("wrong pooling", "wrong weights"), "score": ("wrong weights",)}


def write_model(folder: Path, task: str) -> None:
    """Write a model with random weights: Bert's shape, whose tokenizer puts a token before and after a text."""
    torch.manual_seed(1)
    if task == "embed":
        transformers.BertModel(transformers.BertConfig(**BERT)).save_pretrained(folder)
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps(MODES))
        (folder / "modules.json").write_text(json.dumps(POOLED))
    else:
        transformers.BertForSequenceClassification(transformers.BertConfig(**BERT, num_labels=1)).save_pretrained(
            folder
        )
    first, last = ({"SpecialToken": {"id": name, "type_id": 0}} for name in ("<s>", "</s>"))
    one, two = ({"Sequence": {"id": name, "type_id": number}} for number, name in enumerate("AB"))
    end = {"SpecialToken": {"id": "</s>", "type_id": 1}}
    known = {
        name: {"id": name, "ids": [id_], "tokens": [name]}
        for name, id_ in (("<s>", builtin_model.BOS), ("</s>", builtin_model.EOS))
    }
    template = {
        "type": "TemplateProcessing",
        "single": [first, one, last],
        "pair": [first, one, last, two, end],
        "special_tokens": known,
    }
    (folder / "tokenizer.json").write_text(json.dumps(builtin_model.tokenizer() | {"post_processor": template}))
    (folder / "tokenizer_config.json").write_text(json.dumps(builtin_model.TOKENIZER_CONFIGURATION))


@pytest.fixture(scope="module", params=["embed", "score"])
def service(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Service]:
    prefix, task = tmp_path_factory.mktemp("served"), str(request.param)
    model, reference = prefix / "models/m", prefix / "reference.json"
    write_model(model, task)
    (prefix / "verify").mkdir()
    reference.write_text(json.dumps(reference_of(model, task, None)))
    with started(prefix, model, task=task, reference=str(reference)) as service:
        yield service


@pytest.fixture(autouse=True)
def sound(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server without a fault. Its processes leave no notes of their number type here."""
    (service.prefix / "fault").write_text("")
    monkeypatch.setattr("verify.serving.answers.dtype_of", lambda _: "float16")


def proven(service: Service) -> list[str]:
    """Return the evidence of the proof of readiness."""
    more = {"supervisor": "systemd", "asked": "CPU_ATTN", "processes": 1, "slice_s": 1.0, "prefix": str(service.prefix)}
    request = ReadinessRequest(**{**service.readiness, **more})
    return check_vectors(request, wait_for(request), "float16", request.client())


def test_a_sound_server_is_ready_and_keeps_its_vectors(service: Service) -> None:
    of_properties, of_reference, *_ = proven(service)
    assert "different vectors of" in of_properties
    assert "vectors differ from those of transformers in float32 by up to 0.0" in of_reference
    assert "vectors differ from the last green run" in proven(service)[2]
    outcome = answer.check_answer(service, whole=True)
    assert outcome.status == "ok", outcome.reason
    assert {"transformers in float32", "the last green run"} < {*outcome.evidence["compared with"]}
    found = ask_all(Asker(Client(service.endpoint, 60.0, "k"), is_builtin=False, task=service.task), has_tools=False)
    assert (found.deviations, found.refused, found.late) == ((), {}, ())
    assert found.checked


def test_wrong_vectors_are_noticed(service: Service) -> None:
    for fault in FAULTS[service.task]:
        (service.prefix / "fault").write_text("")
        proven(service)
        (service.prefix / "fault").write_text(fault)
        with pytest.raises(NotProvenError, match="weights or pooling are not the model's"):
            proven(service)
        outcome = answer.check_answer(service)
        assert outcome.status == "fail"
        assert "its answer differs from transformers in float32: vector " in outcome.reason
