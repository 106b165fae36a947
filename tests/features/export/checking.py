"""Exported documents compared with the schemas of their projects, and with those of Kubernetes. A key that a schema does not name is refused."""

import json
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).with_name("schemas")
KUBERNETES = "1.37"
KINDS = {"LeaderWorkerSet": "leaderworkerset", "LLMInferenceService": "llminferenceservice"}


def refuse(documents: list[Any], schema: str | None = None) -> None:
    """Raise an error for the first document that its schema refuses.

    Args:
        documents: The documents.
        schema: The schema of all of them; None: that of the kind of each.
    """
    # Imported here, as jsonschema is: it builds dozens of grammars, which would cost every collection a second.
    import kubernetes_validate

    for document in documents:
        kind = document.get("kind")
        if schema is not None or kind in KINDS:
            validate(document, schema or KINDS[kind])
        else:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        for spec in pods(document):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def validate(document: Any, schema: str) -> None:
    """Compare a document with a schema of the folder beside."""
    import jsonschema

    jsonschema.validate(document, strict(json.loads((SCHEMAS / f"{schema}.json").read_text())))


def strict(schema: Any) -> Any:
    """Return a schema in which an object has no other properties than those that it names."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    is_open = "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
    return found if is_open or "properties" not in schema else {**found, "additionalProperties": False}


def pods(document: Any) -> list[Any]:
    """Return the specifications of pods in a document."""
    spec = document.get("spec", {})
    if document.get("kind") == "LeaderWorkerSet":
        template = spec["leaderWorkerTemplate"]
        return [template["leaderTemplate"]["spec"], template["workerTemplate"]["spec"]]
    if document.get("kind") == "LLMInferenceService":
        return [spec["template"]]
    models = document.get("servingEngineSpec", {}).get("modelSpec", ())
    return [pod_of_values(model) for model in models]


def pod_of_values(model: Any) -> Any:
    """Return the parts of a modelSpec that the chart hands on as they are, as a pod."""
    parts = {"env": model["env"], "volumeMounts": model.get("extraVolumeMounts", [])}
    terms = {"nodeSelectorTerms": model["nodeSelectorTerms"]} if "nodeSelectorTerms" in model else None
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}} if terms else {}
    return {
        "containers": [{"name": "vllm", "image": f"{model['repository']}:{model['tag']}", **parts}],
        "volumes": model.get("extraVolumes", []),
        "affinity": affinity,
    }


def read(text: str) -> list[Any]:
    """Return the documents of a file."""
    return list(yaml.safe_load_all(text))
