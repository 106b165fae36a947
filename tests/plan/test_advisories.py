"""Which advisories apply to a host, what `latest` makes of them, and what the plan says."""

from typing import Any

import pytest

from provision.catalog import catalog
from provision.core.errors import UsageError
from provision.core.models.settings import Settings
from provision.core.models.stack import Resolution
from provision.phases.plan.advisories import Exposure, affects, exposure_of, is_critical
from provision.phases.plan.policy import policy_of
from provision.phases.plan.what_if import parse_what_if
from tests.family.models import LLAMA, nested, of
from tests.plan.planned import model_of, release_of, resolve, texts_of

HOST = (
    "gpu=H100x1 driver={} os=ubuntu-24.04 python=3.12 arch=x86_64 cpu=avx512 glibc=2.39 ram=256 disk=900 container=no"
)
VIDEO_HOLE = "CVE-2026-22778"
PICTURES = nested("Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl", vision_config={"depth": 2}, video_token_id=7)


def served(config: dict[str, Any], driver: str = "535.309.01", **settings: Any) -> Resolution:
    """Return the plan of a host that serves a model with this config.json."""
    return resolve(HOST.format(driver), model_of(config), **settings)


def advised(resolution: Resolution, verdict: str) -> list[str]:
    return texts_of(resolution, "advisories", verdict)


def test_a_range_ends_before_a_release_with_a_hole_that_applies() -> None:
    found = served(PICTURES, vllm=">=0.9", torch="==2.9.0")
    assert found.stack is None
    assert f"vLLM 0.13.0 has {VIDEO_HOLE} (CVSS 9.8), fixed in 0.14.1" in advised(found, "reject")[0]
    assert "the model takes images or video" in advised(found, "reject")[0]


def test_the_same_range_reaches_it_for_a_model_of_text() -> None:
    found = served(LLAMA, vllm=">=0.9", torch="==2.9.0")
    assert release_of(found) == "0.13.0"
    text = f"{VIDEO_HOLE} (CVSS 9.8) of vLLM 0.13.0 does not apply: the model takes no images or video"
    assert text in advised(found, "accept")


def test_a_named_release_is_planned_with_a_warning_until_it_is_accepted() -> None:
    warned = served(PICTURES, vllm="==0.9.1")
    assert warned.stack
    assert f"vLLM 0.9.1 has {VIDEO_HOLE} (CVSS 9.8)" in advised(warned, "warn")[0]
    accepted = served(PICTURES, vllm="==0.9.1", accept_advisories=[VIDEO_HOLE])
    assert accepted.stack == warned.stack
    assert not any(VIDEO_HOLE in text for text in advised(accepted, "warn"))
    assert any(text.endswith("firstlight_accept_advisories names it") for text in advised(accepted, "accept"))


def test_advisories_of_lower_severity_are_counted_and_listed_in_the_facts() -> None:
    found = served(LLAMA, vllm="==0.19.1")
    (reason,) = (item for item in found.reasons if (item.rule, item.verdict) == ("advisories", "warn"))
    assert "open advisories below CVSS 9, the most severe CVE-2026-55574 (CVSS 7.5)" in reason.text
    assert "CVE-2026-116181" not in reason.facts["advisories"]  # from 0.20.1 on
    assert "CVE-2026-105757" in reason.facts["advisories"]


def test_a_parser_that_the_family_chooses_counts_as_given() -> None:
    name = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
    coder = model_of(of("Qwen3MoeForCausalLM", "qwen3_moe"), name)
    found = resolve(HOST.format("580.178.04"), coder, vllm="==0.10.0")
    listed = [name for reason in found.reasons for name in reason.facts.get("advisories", ())]
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
    assert model_of(config)["org/model"].inputs == inputs


@pytest.mark.parametrize(("of_a_guest", "named"), [(False, True), (True, False)])
def test_an_upgrade_is_named_where_it_replaces_the_driver(of_a_guest: bool, named: bool) -> None:
    facts = parse_what_if(HOST.format("570.86.15"))
    assert facts.nvidia
    gpus = tuple(gpu.model_copy(update={"virtualization": "VGPU"}) for gpu in facts.nvidia.gpus)
    changed = facts.model_copy(update={"nvidia": facts.nvidia.model_copy(update={"gpus": gpus})})
    found = resolve(changed if of_a_guest else facts, model_of(LLAMA))
    texts = texts_of(found, "driver-advisories", "warn")
    assert texts
    assert any("`--driver upgrade` replaces it" in text for text in texts) is named
