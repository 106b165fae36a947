"""Each format passes the schema of its project, says what the fleet serves, and a misspelt key in it is noticed."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from provision.core.errors import InventoryError
from provision.core.models.settings import Settings
from provision.core.models.stack import VllmBuild
from provision.core.tables import own_table
from provision.features.export.formats import Format, endpoints_of, files_of, readme
from provision.features.export.workloads import HERE, table, workloads
from tests.features.export.checking import KINDS, read, refuse
from tests.features.export.fleet import (
    DIGEST,
    H100S,
    LARGE,
    MACHINE,
    SMALL,
    facts_of,
    host,
    span,
    stacks_of,
    workloads_of,
)

GROUP = "llama-3-1-70b-instruct"
FREE = {"labels", "nodeSelector", "requests", "limits", "selector", "data", "metadata"}
"""Mappings whose keys are the user's own; of `metadata`, the name is in every object."""


@pytest.fixture
def everything(tmp_path: Path) -> list[Any]:
    """Hosts with all that a format has a place for."""
    (tmp_path / "template.jinja").write_text("{{ messages }}\n")
    own: dict[str, Any] = {
        "tensor_parallel": 2,
        "max_model_len": 4096,
        "memory_share": 0.8,
        "hf_token_file": "/token",
        "chat_template": str(tmp_path / "template.jinja"),
        "otlp_traces_endpoint": "http://192.0.2.9:4317",
        "env": {"OTEL_SERVICE_NAME": "fleet"},
        "vllm_args": ("--max-num-seqs", "64", "--override-generation-config", '{"seed": 1, "x": "$(HOME)"}'),
        "tool_parser": "hermes",
    }
    (tmp_path / "own-model").mkdir()
    folder = host("own", address="192.0.2.5", model=str(tmp_path / "own-model"))
    return [host("a", **own), host("b", address="192.0.2.2", **own), folder, *span("c", "d"), *span("e", "f")]


def exported(kind: Format, hosts: list[Any]) -> dict[str, list[Any]]:
    files = files_of(kind, workloads_of(hosts), DIGEST)
    return {name: read(text) for name, text in files.items()}


def misspelt(node: Any) -> Iterator[Any]:
    """Yield a document once for each of its keys below another key, with that key misspelt."""
    found = {tuple(step for step in place if isinstance(step, str))[-2:]: place for place, _ in places(node)}
    for place in found.values():
        changed = copy.deepcopy(node)
        inner = changed
        for step in place[:-1]:
            inner = inner[step]
        inner[f"{place[-1]}x"] = inner.pop(place[-1])
        yield changed


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each key of a document that a schema has to know, with the path to it."""
    if isinstance(node, list):
        for number, item in enumerate(node):
            yield from places(item, (*above, number))
    elif isinstance(node, dict):
        for key, value in node.items():
            yield (*above, key), value
            if key not in FREE:
                yield from places(value, (*above, key))


@pytest.mark.long(seconds=13)
@pytest.mark.parametrize("kind", ["production-stack", "lws", "kserve"])
def test_every_file_passes_its_schema_and_every_misspelt_key_is_refused(kind: Format, everything: list[Any]) -> None:
    import jsonschema
    import kubernetes_validate

    for name, documents in exported(kind, everything).items():
        schema = "production-stack" if name == "values.yaml" else None
        refuse(documents, schema)
        for document in {one.get("kind"): one for one in documents}.values():
            for wrong in misspelt(document):
                with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError, KeyError)):
                    refuse([wrong], schema)


def test_equal_hosts_are_replicas_of_one_model_with_all_that_they_serve_with(everything: list[Any]) -> None:
    [values] = exported("production-stack", everything)["values.yaml"]
    first, own = values["servingEngineSpec"]["modelSpec"]
    release = first["tag"].partition("@")[0]
    assert first["tag"] == f"{release}@{DIGEST}"
    assert (first["repository"], first["modelURL"], first["replicaCount"]) == ("vllm/vllm-openai", SMALL, 2)
    assert (first["requestGPU"], first["requestGPUType"], first["requestCPU"]) == (2, "nvidia.com/gpu", 4)
    assert first["nodeSelectorTerms"][0]["matchExpressions"][0]["values"] == ["H100"]
    config = first["vllmConfig"]
    assert (config["tensorParallelSize"], config["maxModelLen"], config["gpuMemoryUtilization"]) == (2, 4096, 0.8)
    words = " ".join(config["extraArgs"])
    assert "--attention-backend FLASH_ATTN" in words
    assert "--enable-auto-tool-choice --tool-call-parser hermes" in words
    assert "--otlp-traces-endpoint http://192.0.2.9:4317" in words
    assert "--chat-template /mnt/chat-template/chat_template.jinja" in words
    assert words.endswith('--max-num-seqs 64 --override-generation-config {"seed": 1, "x": "$$(HOME)"}')
    assert {"name": "OTEL_SERVICE_NAME", "value": "fleet"} in first["env"]
    assert first["hf_token"] == {"secretName": "hf-token", "secretKey": "token"}
    assert own["modelURL"] == "/mnt/fleet-models/own-model"
    claim = {"claimName": "models", "readOnly": True}
    assert own["extraVolumes"] == [{"name": "models", "persistentVolumeClaim": claim}]


def test_hosts_of_one_model_are_pods_of_one_group(everything: list[Any]) -> None:
    group, service = exported("lws", everything)["leaderworkersets.yaml"]
    template = group["spec"]["leaderWorkerTemplate"]
    assert (group["spec"]["replicas"], template["size"]) == (2, 2)
    [leader], [worker] = (template[f"{role}Template"]["spec"]["containers"] for role in ("leader", "worker"))
    assert leader["args"][0] == LARGE
    assert worker["args"] == [*leader["args"], "--headless"]
    assert "--nnodes $(LWS_GROUP_SIZE) --node-rank $(LWS_WORKER_INDEX)" in " ".join(leader["args"])
    assert "--tensor-parallel-size 8 --pipeline-parallel-size 2" in " ".join(leader["args"])
    assert leader["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert "readinessProbe" not in worker
    assert (group["metadata"]["name"], service["metadata"]["name"]) == (GROUP, f"{GROUP}-leader")
    assert service["spec"]["selector"] == template["leaderTemplate"]["metadata"]["labels"]


def test_a_shell_reads_the_arguments_of_kserve_and_its_fields_are_used(everything: list[Any]) -> None:
    first, own = exported("kserve", everything)["llminferenceservices.yaml"]
    spec = first["spec"]
    assert spec["model"] == {"uri": f"hf://{SMALL}", "name": SMALL}
    assert (spec["parallelism"], spec["replicas"]) == ({"tensor": 2}, 2)
    assert spec["tracing"] == {"exporterEndpoint": "http://192.0.2.9:4317"}
    [main] = spec["template"]["containers"]
    assert '\'{"seed": 1, "x": "$$(HOME)"}\'' in main["args"]
    assert not {"--served-model-name", "--tensor-parallel-size", "--otlp-traces-endpoint"} & set(main["args"])
    assert own["spec"]["model"]["uri"] == "pvc://models/own-model"


@pytest.mark.parametrize(
    ("machine", "image", "gpu"),
    [
        (H100S, "vllm/vllm-openai", "nvidia.com/gpu"),
        (f"gpu=MI300Xx8 {MACHINE}", "vllm/vllm-openai-rocm", "amd.com/gpu"),
        (f"gpu=none {MACHINE}", "vllm/vllm-openai-cpu", None),
    ],
    ids=["cuda", "rocm", "cpu"],
)
def test_the_image_is_that_of_the_platform(machine: str, image: str, gpu: str | None) -> None:
    values = read(files_of("production-stack", workloads_of([host("a")], machine), None)["values.yaml"])
    refuse(values, "production-stack")
    [model] = values[0]["servingEngineSpec"]["modelSpec"]
    assert (model["repository"], model.get("requestGPUType")) == (image, gpu)
    assert "@" not in model["tag"]
    assert bool(model["requestGPU"]) is (gpu is not None)


@pytest.mark.parametrize(
    ("version", "variant", "tag"),
    [
        ("0.31.0", "cu130", "v0.31.0"),
        ("0.31.0", "cu129", "v0.31.0-cu129"),
        ("0.19.0", "cu129", "v0.19.0"),
        ("0.33.0", "rocm10.0", "v0.33.0"),
        ("0.33.0", "rocm7.2", "v0.33.0-rocm72"),
        ("0.31.0", "rocm7.2", "v0.31.0"),
        ("0.31.0", "cpu", "v0.31.0"),
    ],
)
def test_the_image_of_another_cuda_or_rocm_than_the_releases_own_has_its_tag(
    version: str, variant: str, tag: str
) -> None:
    machine = f"gpu=MI300Xx8 {MACHINE}" if variant.startswith("rocm") else H100S
    hosts, facts = [host("a")], facts_of([host("a")], machine)
    stack = stacks_of(hosts, facts)["a"]
    build = VllmBuild(version=version, variant=variant)
    [workload] = workloads(hosts, facts, {"a": stack.model_copy(update={"vllm": build})})
    assert workload.tag == tag


@pytest.mark.parametrize(
    ("architecture", "generates"),
    [("LlamaForCausalLM", True), ("XLMRobertaModel", False), ("BertForSequenceClassification", False)],
)
def test_a_model_of_vectors_has_no_options_of_one_that_makes_text(architecture: str, *, generates: bool) -> None:
    hosts = [host("a", tool_parser="hermes")]
    facts = facts_of(hosts)
    stack = stacks_of(hosts, facts)["a"]
    assert stack.model
    stack = stack.model_copy(update={"model": stack.model.model_copy(update={"architecture": architecture})})
    [values] = read(files_of("production-stack", workloads(hosts, facts, {"a": stack}), DIGEST)["values.yaml"])
    config = values["servingEngineSpec"]["modelSpec"][0]["vllmConfig"]
    assert config["enablePrefixCaching"] is generates
    assert ("--tool-call-parser" in config["extraArgs"]) is generates


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "chat/merged", tmp_path / "code/merged"]
    for folder in folders:
        folder.mkdir(parents=True)
    with pytest.raises(InventoryError, match="have the same name"):
        workloads_of([host(folder.parent.name, model=str(folder)) for folder in folders])
    assert len(workloads_of([host(name, model=str(folders[0])) for name in "ab"])) == 1


def test_a_slice_of_a_gpu_is_named_as_what_the_cluster_has_to_offer() -> None:
    hosts = [host("a")]
    facts = facts_of(hosts)
    stacks = stacks_of(hosts, facts)
    [workload] = workloads(hosts, facts, stacks)
    texts = [readme("kserve", hosts, [replace(workload, is_slice=part)], stacks, {}) for part in (False, True)]
    assert ["nvidia.com/mig-" in text for text in texts] == [False, True]


def test_clients_keep_the_name_of_the_model() -> None:
    hosts = [host("a"), host("b"), host("c", served_model_name="small", model=f"{SMALL}@v1")]
    first, second = workloads_of(hosts, b="Llama-3.1-8B-Instruct-0123abcd")
    assert (first.served_name, first.hosts) == ("Llama-3.1-8B-Instruct-0123abcd", ("a", "b"))
    assert (second.served_name, second.revision, second.name) == ("small", "v1", "small")


@pytest.mark.parametrize(("served", "name"), [("70B-Chat", "model-70b-chat"), ("模型", "model"), ("org/-x-", "x")])
def test_the_name_of_a_workload_is_one_that_kubernetes_takes(served: str, name: str) -> None:
    [workload] = workloads_of([host("a", served_model_name=served)])
    assert (workload.name, workload.served_name) == (name, served)


def test_different_workloads_of_one_model_have_different_names() -> None:
    hosts = [host("a"), host("b", max_model_len=1024), host("c", served_model_name="llama-3-1-8b-instruct-2")]
    names = [each.name for each in workloads_of(hosts)]
    assert names == ["llama-3-1-8b-instruct", "llama-3-1-8b-instruct-2", "llama-3-1-8b-instruct-2-2"]


def test_variables_of_the_attention_back_end_and_those_of_the_user_are_taken_as_they_are() -> None:
    folder = {"LD_LIBRARY_PATH": "/opt/libraries", "VLLM_PLUGINS": "own"}
    [workload] = workloads_of([host("a", env=folder)])
    assert folder.items() <= dict(workload.environment).items()
    assert not {"HOME", "CUDA_VISIBLE_DEVICES", "VLLM_HOST_IP"} & dict(workload.environment).keys()
    assert {"HOME", "CUDA_VISIBLE_DEVICES", "VLLM_HOST_IP"} <= set(workload.dropped)


def test_endpoints_are_hosts_that_other_machines_reach() -> None:
    import jsonschema

    hosts = [
        host("a", address="192.0.2.1"),
        host("b", address="gpu.example.org"),
        host("c", bind="127.0.0.1"),
        host("d", bind="192.0.2.4"),
        host("e"),
    ]
    entries, missing = endpoints_of(hosts, facts_of(hosts, **dict.fromkeys("abcd", "m")), {})
    refuse([{"endpoints": entries}], "endpoints")
    assert entries == [
        {"name": name, "address": address, "port": "8000", "labels": {"model": "m"}}
        for name, address in (("a", "192.0.2.1"), ("d", "192.0.2.4"))
    ]
    assert set(missing) == {"b", "c", "e"}
    assert "`gpu.example.org`" in missing["b"]
    for wrong in misspelt({"endpoints": [entry | {"labels": {}} for entry in entries]}):
        with pytest.raises(jsonschema.ValidationError):
            refuse([wrong], "endpoints")


def test_hosts_that_are_left_out_and_services_that_do_not_run_are_no_endpoints() -> None:
    hosts = [host(name, address="192.0.2.1") for name in "abcd"]
    states = {"a": "active", "b": "inactive", "c": None, "d": "active"}
    facts = facts_of(hosts, **dict.fromkeys("abcd", "m"))
    for name, state in states.items():
        installed = facts[name].installed
        assert installed is not None
        facts[name] = facts[name].model_copy(update={"installed": installed.model_copy(update={"service": state})})
    entries, missing = endpoints_of(hosts, facts, {"d": "quarantined since noon"})
    assert [entry["name"] for entry in entries] == ["a", "c"]
    assert missing == {"b": "its service is inactive", "d": "quarantined since noon"}


def test_every_setting_and_every_format_has_its_row() -> None:
    settings = own_table(HERE / "settings.toml")
    rows = [*settings["taken"], *(name for names in settings["left"].values() for name in names)]
    assert sorted(rows) == sorted(Settings.model_fields)
    assert table()["format"].keys() == set(get_args(Format))
    assert set(KINDS) == {"LeaderWorkerSet", "LLMInferenceService"}
