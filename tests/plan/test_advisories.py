"""Which advisories apply to a host, what `latest` makes of them, and what the plan says."""

from __future__ import annotations

from typing import Any

import pytest

from provision.catalog import catalog
from provision.core.errors import UsageError
from provision.core.models.settings import Settings
from provision.core.models.stack import Resolution
from provision.phases.plan import choose_stacks
from provision.phases.plan.advisories import Exposure, affects, exposure_of, is_critical
from provision.phases.plan.fit.shape import shape_of
from provision.phases.plan.fit.weights import counted
from provision.phases.plan.policy import policy_of
from provision.phases.plan.what_if import parse_what_if
from tests.family.models import LLAMA, TEXT, nested

HOST = (
    "gpu=H100x1 driver={} os=ubuntu-24.04 python=3.12 arch=x86_64 cpu=avx512 glibc=2.39 ram=256 disk=900 container=no"
)
VIDEO_HOLE = "CVE-2026-22778"
PICTURES = nested("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", vision_config={"depth": 2}, video_token_id=7)


def resolve(config: dict[str, Any], driver: str = "535.309.01", **settings: Any) -> Resolution:
    shape = shape_of(config, counted({"BF16": 1 << 30}, "a test"), model="org/model")
    wanted = {"h": Settings.model_validate({"model": "org/model", **settings})}
    return choose_stacks({"h": parse_what_if(HOST.format(driver))}, wanted, shapes={"org/model": shape}).classes[0]


def told(resolution: Resolution, verdict: str) -> list[str]:
    return [reason.text for reason in resolution.reasons if (reason.rule, reason.verdict) == ("advisories", verdict)]


def test_a_range_ends_before_a_release_with_a_hole_that_applies() -> None:
    found = resolve(PICTURES, vllm=">=0.9", torch="==2.9.0")
    assert found.stack is None
    assert f"vLLM 0.13.0 has {VIDEO_HOLE} (CVSS 9.8), fixed in 0.14.1" in told(found, "reject")[0]
    assert "the model takes images or video" in told(found, "reject")[0]


def test_the_same_range_reaches_it_for_a_model_of_text() -> None:
    found = resolve(LLAMA, vllm=">=0.9", torch="==2.9.0")
    assert found.stack
    assert found.stack.vllm
    assert found.stack.vllm.version == "0.13.0"
    assert f"{VIDEO_HOLE} (CVSS 9.8) of vLLM 0.13.0 does not apply: the model takes no images or video" in told(
        found, "accept"
    )


def test_a_named_release_is_planned_with_a_warning_until_it_is_accepted() -> None:
    warned = resolve(PICTURES, vllm="==0.9.1")
    assert warned.stack
    assert f"vLLM 0.9.1 has {VIDEO_HOLE} (CVSS 9.8)" in told(warned, "warn")[0]
    accepted = resolve(PICTURES, vllm="==0.9.1", accept_advisories=[VIDEO_HOLE])
    assert accepted.stack == warned.stack
    assert not any(VIDEO_HOLE in text for text in told(accepted, "warn"))
    assert any(text.endswith("firstlight_accept_advisories names it") for text in told(accepted, "accept"))


def test_advisories_of_lower_severity_are_counted_and_listed_in_the_facts() -> None:
    found = resolve(LLAMA, vllm="==0.19.1")
    (reason,) = (item for item in found.reasons if (item.rule, item.verdict) == ("advisories", "warn"))
    assert "open advisories below CVSS 9, the most severe CVE-2026-55574 (CVSS 7.5)" in reason.text
    assert "CVE-2026-116181" not in reason.facts["advisories"]  # from 0.20.1 on
    assert "CVE-2026-105757" in reason.facts["advisories"]


def test_a_parser_that_the_family_chooses_counts_as_given() -> None:
    coder = {**TEXT, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    shape = shape_of(coder, counted({"BF16": 1 << 30}, "a test"), model="Qwen/Qwen3-Coder-30B-A3B-Instruct")
    settings = Settings(model="Qwen/Qwen3-Coder-30B-A3B-Instruct", vllm="==0.10.0")
    found = choose_stacks(
        {"h": parse_what_if(HOST.format("580.178.04"))}, {"h": settings}, shapes={settings.model: shape}
    )
    listed = [name for reason in found.classes[0].reasons for name in reason.facts.get("advisories", ())]
    assert "CVE-2025-9141" in listed


def test_a_misspelt_id_is_refused() -> None:
    with pytest.raises(UsageError, match="no advisory `CVE-2026-2277`") as error:
        policy_of(Settings(accept_advisories=("CVE-2026-2277",)))
    assert VIDEO_HOLE in str(error.value.hint)


@pytest.mark.parametrize(
    ("id_", "version", "expected"),
    [
        (VIDEO_HOLE, "0.8.2", False),
        (VIDEO_HOLE, "0.8.3", True),
        (VIDEO_HOLE, "0.14.0", True),
        (VIDEO_HOLE, "0.14.1", False),
        (VIDEO_HOLE, "0.14.0+cu129", True),
        (VIDEO_HOLE, "of no version", False),
        ("NVIDIA-5861", "580.65.06", True),
        ("NVIDIA-5861", "580.178.04", False),
        ("NVIDIA-5861", "615.10.01", False),
        ("CVE-2026-24260", "1.19.0", True),
        ("CVE-2026-24260", "1.19.1", False),
    ],
)
def test_a_range_has_its_first_version_and_not_its_last(id_: str, version: str, expected: bool) -> None:
    row = next(row for row in catalog().advisories if row.id == id_)
    assert affects(row, version) is expected


@pytest.mark.parametrize(
    ("id_", "exposure", "missing"),
    [
        (VIDEO_HOLE, Exposure(own_model=True, inputs=("media",)), None),
        (VIDEO_HOLE, Exposure(own_model=True, inputs=("audio",)), "the model takes no images or video"),
        ("CVE-2026-48746", Exposure(), "a guard of Firstlight checks the API key before vLLM does"),
        ("CVE-2025-30202", Exposure(hosts=2), None),
        ("CVE-2025-30202", Exposure(), "one host serves a model alone"),
        ("CVE-2025-32444", Exposure(arguments=('--kv-transfer-config={"kv_connector": "MooncakeConnector"}',)), None),
        ("CVE-2025-32444", Exposure(), "`Mooncake` is not given"),
        ("CVE-2025-24357", Exposure(arguments=("--load-format=pt",)), None),
        ("CVE-2025-24357", Exposure(arguments=("--load-format", "safetensors")), "`--load-format pt` is not given"),
        ("CVE-2025-46560", Exposure(own_model=True, architecture="Phi4MMForCausalLM"), None),
        ("CVE-2025-46560", Exposure(own_model=True, architecture="LlamaForCausalLM"), "the model is of another class"),
        ("CVE-2025-46560", Exposure(own_model=True), None),  # an unknown model may be of the class
        ("CVE-2025-46560", Exposure(), "the model is of another class"),
        ("CVE-2026-22807", Exposure(), "the built-in model is served"),
        ("CVE-2025-32434", Exposure(), "vLLM alone uses torch here, and loads no such files"),
        ("CVE-2025-32434", Exposure(serves_vllm=False), None),
    ],
)
def test_a_condition_that_does_not_hold_is_named(id_: str, exposure: Exposure, missing: str | None) -> None:
    row = next(row for row in catalog().advisories if row.id == id_)
    assert exposure.missing(row) == missing


def test_of_a_users_model_without_a_plan_everything_is_assumed() -> None:
    assert exposure_of(Settings(model="org/model"), None).inputs == ("media", "audio")
    assert exposure_of(Settings(), None) == Exposure()


def test_no_release_that_latest_may_choose_has_a_critical_hole_in_every_server() -> None:
    worst = [
        row for row in catalog().advisories if row.product == "vllm" and is_critical(row) and row.needs == "nothing"
    ]
    newest = max(catalog().releases, key=lambda row: tuple(map(int, row.version.split(".")[:2]))).version
    assert not any(affects(row, newest) for row in worst if row.option is None)


@pytest.mark.parametrize(
    ("config", "inputs"),
    [
        (LLAMA, ()),
        (LLAMA | {"vision_config": None, "use_vision": False}, ()),
        (PICTURES, ("media",)),
        (LLAMA | {"img_processor": {"name": "clip"}}, ("media",)),
        (
            LLAMA | {"thinker_config": {"audio_config": {"d_model": 8}, "vision_config": {"depth": 2}}},
            ("media", "audio"),
        ),
        (LLAMA | {"num_mel_bins": 80}, ("audio",)),
    ],
)
def test_config_json_tells_what_a_model_takes(config: dict[str, Any], inputs: tuple[str, ...]) -> None:
    assert shape_of(config, counted({"BF16": 1 << 30}, "a test")).inputs == inputs
