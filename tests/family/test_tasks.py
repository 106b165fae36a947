"""What a model makes, as vLLM decides it from its files and arguments."""

from typing import Any

import pytest

from provision.core.errors import ModelError
from provision.phases.plan.family.families import task_of

ONE = {"0": "LABEL_0"}
RERANKER = '{"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": true}'


@pytest.mark.parametrize(
    ("architecture", "more", "files", "arguments", "task"),
    [
        ("LlamaForCausalLM", {}, (), (), "generate"),
        ("InternVLChatModel", {}, (), (), "generate"),
        ("GPT2LMHeadModel", {}, (), (), "generate"),
        ("MiniCPMO", {}, (), (), "generate"),
        ("BertModel", {}, (), (), "embed"),
        ("XLMRobertaModel", {}, ("modules.json",), (), "embed"),
        ("Qwen3ForCausalLM", {}, ("config.json", "modules.json"), (), "embed"),
        ("Qwen3ForCausalLM", {}, ("config.json", "modules.json"), ("--runner", "generate"), "generate"),
        ("Qwen3ForCausalLM", {}, (), ("--runner=pooling",), "embed"),
        ("Qwen3ForCausalLM", {}, (), ("--convert", "embed"), "embed"),
        ("Qwen3ForCausalLM", {}, (), ("--task", "embedding"), "embed"),
        ("Qwen3ForCausalLM", {"num_labels": 1}, (), ("--convert", "classify"), "score"),
        ("XLMRobertaForSequenceClassification", {"id2label": ONE}, (), (), "score"),
        ("BertForSequenceClassification", {"id2label": ONE}, (), ("--runner", "pooling"), "score"),
        ("JinaVLForRanking", {"num_labels": 1}, (), (), "score"),
        ("Qwen3ForCausalLM", {}, (), ("--hf-overrides", RERANKER), "score"),
        ("Qwen3ForCausalLM", {}, (), ("--hf-overrides", "no JSON"), "generate"),
    ],
)
def test_files_and_arguments_decide(
    architecture: str, more: dict[str, Any], files: tuple[str, ...], arguments: tuple[str, ...], task: str
) -> None:
    assert task_of({"architectures": [architecture], **more}, files, arguments) == task


def test_a_model_that_names_classes_is_refused() -> None:
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes", "2": "maybe"}}
    with pytest.raises(ModelError, match="has 3 labels: it names classes"):
        task_of(config, (), ())
