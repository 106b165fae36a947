"""The proof of readiness, as the real program on a host runs it, against a server that answers over real HTTP.

This machine may have no systemd: `systemctl` and `journalctl` are scripts that answer in the real format for the
server's process. The fleet test proves the same against the real programs.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.core.models.inventory import Connection
from provision.core.models.records import ServeRecord
from provision.core.models.settings import Settings
from provision.fleet.ssh.local import LocalSession
from provision.phases.serve.command_line import serve_command
from provision.phases.serve.model import BUILTIN, ServedModel, reference_path
from provision.phases.serve.onhost import vectors
from provision.phases.serve.onhost.ready import service
from provision.phases.serve.onhost.ready.log import causes, lines_of_start
from provision.phases.serve.readiness import prove, readiness_request
from provision.phases.serve.tools import READY, serve_tools
from provision.phases.serve.unit import render_service
from provision.pipeline.failure_evidence import causes_of
from tests.probe.here import program, with_first
from tests.serve.conftest import card, facts, readiness, stack
from tests.waiting import wait_until

SERVER = Path(__file__).parent / "serving.py"
TOKENS = list(range(100, 132))
LOGPROBS = [-1.5] * 32
NEAR_TIE = 20
"""Position of the one token whose two largest logits are close together."""
NEVER_HEALTHY = 10**9

SYSTEMCTL = """pid=$(cat "$STATE/pid")
if grep -q '^State:.[^Z]' "/proc/$pid/status" 2>/dev/null; then
    printf 'MainPID=%s\\nResult=success\\nExecMainStatus=0\\nActiveState=active\\nSubState=running\\n' "$pid"
else
    printf 'MainPID=0\\nResult=exit-code\\nExecMainStatus=1\\nActiveState=activating\\nSubState=auto-restart\\n'
fi
printf 'InvocationID=8c1f5ab6d1f54c7a9c2f6f7f3d2b1a00\\n'
"""

Prove = Callable[..., dict[str, Any]]


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation with the tools, the key and the reference that the proof needs."""
    for name in ("run", "etc", "bin", "logs", "verify", "state", "models/qwen3", "models/builtin-1", "current/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "current/bin/python").symlink_to(sys.executable)
    (tmp_path / "etc/service.env").write_text("HF_HUB_OFFLINE=1\nVLLM_API_KEY=sesame\n")
    (tmp_path / "models/qwen3/config.json").write_text("{}")
    gaps = [0.9] * 32
    gaps[NEAR_TIE] = 0.1
    reference = {"prompt": [1, 2, 3], "tokens": TOKENS, "logprobs": LOGPROBS, "gaps": gaps, "runners_up": [7] * 32}
    Path(reference_path(str(tmp_path), "abc")).write_text(json.dumps(reference))
    serve_tools(tmp_path / "bin")
    (tmp_path / "state/journal").write_text("INFO 11-20 08:00:00 [api_server.py:1] starting\n")
    program(tmp_path / "bin", "systemctl", SYSTEMCTL)
    program(tmp_path / "bin", "journalctl", 'cat "$STATE/journal"')
    return tmp_path


@pytest.fixture
def serving(prefix: Path) -> Iterator[Callable[..., int]]:
    """Return a function that starts the server with given answers and returns its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(**configuration: Any) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        given = {"prefix": str(prefix), "port": port, "key": "sesame", "backends": ["FLASH_ATTN"] * 4, "tokens": TOKENS}
        given |= {"logprobs": LOGPROBS, "forced": LOGPROBS, **configuration}
        (prefix / "state/configuration.json").write_text(json.dumps(given))
        process = subprocess.Popen([sys.executable, SERVER, prefix / "state/configuration.json"])
        started.append(process)
        (prefix / "state/pid").write_text(str(process.pid))
        return port

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def proven(prefix: Path, serving: Callable[..., int]) -> Prove:
    """Return a function that starts the server and runs the real program once; the keyword `request` changes its request."""

    def ask(*, request: dict[str, Any] | None = None, **configuration: Any) -> dict[str, Any]:
        asked = readiness(
            prefix,
            port=serving(**configuration),
            served_name="builtin-1",
            asked="FLASH_ATTN",
            reference=reference_path(str(prefix), "abc"),
            slice_s=20,
        )
        done = subprocess.run(
            [sys.executable, "-I", "-S", prefix / "bin" / READY],
            input=json.dumps(asdict(asked) | (request or {})),
            env={"PATH": with_first(prefix / "bin")["PATH"], "STATE": str(prefix / "state")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return ask


def refusal(answer: dict[str, Any]) -> str:
    """Return why a proof failed."""
    assert answer["state"] == "failed", answer
    text: str = answer["record"]["text"]
    return text


def test_a_correct_answer_with_the_requested_backend_is_ready(proven: Prove) -> None:
    answer = proven(unhealthy=1)
    record = answer["record"]
    assert (answer["state"], record["text"], record["tokens_answered"]) == ("ready", None, TOKENS)
    assert (record["model"], record["chat"]) == ("builtin-1", True)
    assert (record["attention"]["asked"], record["attention"]["used"]) == ("FLASH_ATTN", "FLASH_ATTN")
    assert 0 < record["startup_s"]["health"] <= record["startup_s"]["first_token"] <= record["startup_s"]["proven"]


def test_a_service_on_all_addresses_is_reached_at_the_one_of_its_own_host(proven: Prove) -> None:
    endpoint = urlsplit(proven(request={"host": "0.0.0.0"})["record"]["endpoint"])
    assert (endpoint.hostname, endpoint.path) == ("127.0.0.1", "/v1")


def test_a_model_without_a_chat_template_is_ready_and_takes_no_chat(proven: Prove) -> None:
    record = proven(chat_status=400)["record"]
    assert (record["ready"], record["model"], record["chat"]) == (True, "builtin-1", False)


@pytest.mark.parametrize(
    ("status", "said"), [(500, "out of order"), (400, "reasoning parser could not locate think start/end tokens")]
)
def test_a_server_that_refuses_every_chat_is_not_ready(proven: Prove, status: int, said: str) -> None:
    text = refusal(proven(chat_status=status, chat_refused=said))
    assert text.startswith("the server answers completions but no chat: ")
    assert said in text


def test_the_phases_of_a_start_that_was_not_observed_are_omitted(proven: Prove, serving: Callable[..., int]) -> None:
    port = serving()

    def listens() -> bool:
        with socket.create_connection(("127.0.0.1", port)):
            return True

    wait_until(listens, "it never listens")
    phases = proven(request={"port": port})["record"]["startup_s"]
    assert set(phases) == {"first_answer"}


def tokens(place: int, token: int) -> list[int]:
    """Return the right tokens but for one."""
    return [*TOKENS[:place], token, *TOKENS[place + 1 :]]


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "wrong-token": ({"tokens": tokens(4, 9)}, {}),
    "too-few-tokens": ({"tokens": TOKENS[:31], "logprobs": LOGPROBS[:31]}, {}),
    "same-tokens-but-other-probabilities": ({"logprobs": [*LOGPROBS[:31], LOGPROBS[31] - 0.7]}, {}),
    "no-number-for-a-probability": ({"logprobs": [*LOGPROBS[:31], float("nan")]}, {}),
    "near-tie-but-a-third-token": ({"tokens": tokens(NEAR_TIE, 8)}, {}),
    "near-tie-but-other-probabilities": ({"tokens": tokens(NEAR_TIE, 7), "forced": [-1.5] * 31 + [-4.0]}, {}),
    "near-tie-too-wide-for-float32": ({"tokens": tokens(NEAR_TIE, 7), "dtype": "float32"}, {}),
    "two-backends": ({"backends": ["FLASH_ATTN", "TRITON_ATTN", "TRITON_ATTN"]}, {}),
    "other-backend": ({"backends": ["CPU_ATTN"] * 4}, {}),
    "other-generation": ({"generation": 2}, {"generation": 3}),
    "other-variable": ({"variables": {"VLLM_ROCM_USE_AITER": "0"}}, {"variables": {"VLLM_ROCM_USE_AITER": "1"}}),
    "no-variable": ({}, {"variables": {"VLLM_ROCM_USE_AITER": "1"}}),
    "no-proof": ({"backends": []}, {}),
    "plugin-failed": ({"backends": [], "problem": "cannot watch vLLM's attention layers: ImportError('x')"}, {}),
    "proof-of-another-process": ({"ticks_off": 1}, {}),
    "one-of-two-engines": ({}, {"processes": 2}),
    "server-error": ({"status": 500}, {}),
    "breaks-off": ({"breaks_off": True}, {}),
    "wrong-key": ({"key": "other"}, {}),
    "backend-and-tokens-wrong": ({"backends": ["CPU_ATTN"] * 4, "tokens": [0] * 32}, {}),
}
"""What the server answers, and what the request has besides."""


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_every_other_answer_is_not_ready_and_has_a_reason(
    proven: Prove, case: str, snapshot: SnapshotAssertion
) -> None:
    configuration, request_ = REFUSED[case]
    answer = proven(request=request_, **configuration)
    assert answer["state"] == "failed"
    assert answer["record"]["ready"] is False
    assert answer["record"]["text"] == snapshot


def test_a_near_tie_is_decided_by_log_probabilities(proven: Prove) -> None:
    answer = proven(tokens=tokens(NEAR_TIE, 7), forced=[-1.6] * 32)
    assert answer["state"] == "ready", answer["record"]["text"]
    assert "a near tie (gap 0.100)" in answer["record"]["evidence"][0]


def test_old_name_of_a_backend_is_the_same_backend(proven: Prove) -> None:
    answer = proven(backends=["FLASH_ATTN_VLLM_V1"] * 2, request={"asked": "FLASH_ATTN"})
    assert answer["state"] == "ready", answer["record"]["text"]


def test_the_variables_of_a_backend_are_proven_in_every_engine_process(proven: Prove) -> None:
    given = {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_MHA": "1"}
    answer = proven(
        backends=["ROCM_AITER_FA"],
        variables={**given, "VLLM_ROCM_USE_AITER_MLA": "1"},
        request={"asked": "ROCM_AITER_FA", "variables": given},
    )
    assert answer["state"] == "ready", answer["record"]["text"]
    said = "in every engine process: VLLM_ROCM_USE_AITER=1 VLLM_ROCM_USE_AITER_MHA=1"
    assert said in answer["record"]["attention"]["evidence"]


def test_the_evidence_names_whose_flash_attention_the_layers_call(proven: Prove) -> None:
    module = "vllm.vllm_flash_attn.flash_attn_interface"
    evidence = proven(generation=4, flash_functions=module)["record"]["attention"]["evidence"]
    assert any(line.endswith(f" layers call the flash attention 4 of {module}") for line in evidence), evidence


def test_the_end_of_the_server_is_noticed_at_once_with_the_first_cause(proven: Prove, prefix: Path) -> None:
    (prefix / "state/journal").write_text(
        "(EngineCore pid=7) ERROR 11-20 08:00:00 [core.py:1] Traceback (most recent call last):\n"
        "(EngineCore pid=7) ERROR 11-20 08:00:00 [core.py:1] ValueError: Free memory on device (31.44/47.38 GiB) on startup is less\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    answer = proven(dies_after_s=0.5, request={"slice_s": 60})
    assert "ValueError: Free memory on device (31.44/47.38 GiB)" in refusal(answer)
    assert len(answer["record"]["evidence"]) == 2


def test_the_end_of_the_log_is_shown_if_it_has_no_cause(proven: Prove) -> None:
    record = proven(dies_after_s=0.1, request={"slice_s": 60})["record"]
    assert record["text"] == "firstlight-vllm.service is activating (auto-restart), result exit-code, exit status 1"
    assert record["evidence"] == ["starting"]


@pytest.mark.parametrize("moment", ["start", "question"])
def test_a_process_that_a_signal_stopped_is_named_and_not_waited_for(proven: Prove, prefix: Path, moment: str) -> None:
    text = refusal(proven(stopped_at=moment))
    assert f"process {(prefix / 'state/pid').read_text()} (" in text
    assert text.endswith("of the service is stopped by a signal (state T)")
    assert [finding.cause for finding in causes_of({"serve": text})] == ["service-stopped"]


def test_a_start_that_takes_long_is_waiting_with_the_newest_line(proven: Prove) -> None:
    answer = proven(unhealthy=NEVER_HEALTHY, request={"slice_s": 0.5})
    assert (answer["state"], answer["record"]) == ("waiting", None)
    assert answer["progress"].endswith("starting")
    assert answer["resume"]["started_here"] is True


def test_a_service_that_restarted_between_two_slices_has_failed(proven: Prove) -> None:
    answer = proven(unhealthy=NEVER_HEALTHY, request={"main_pid": 1, "slice_s": 60})
    assert "its supervisor is starting it again" in refusal(answer)


FILES = {"reference": None, "served_name": "qwen3", "release": "e1-s1"}


@pytest.fixture
def user_model(prefix: Path) -> dict[str, Any]:
    (prefix / "models/qwen3/config.json").write_text('{"vocab_size": 32000}')
    return {**FILES, "model_folder": str(prefix / "models/qwen3")}


def test_kernels_of_experts_and_quantised_weights_are_told_beside_what_the_plan_expected(
    proven: Prove, prefix: Path, user_model: dict[str, Any]
) -> None:
    (prefix / "state/journal").write_text(
        "(Worker pid=7) INFO 11-20 08:00:00 [nvfp4.py:314] Using 'MARLIN' NvFp4 MoE backend out of potential backends: ['MARLIN'].\n"
        "(Worker pid=7) INFO 11-20 08:00:00 [unquantized.py:338] Using FlashInfer CUTLASS Unquantized MoE backend out of potential backends: [].\n"
        "(Worker pid=7) INFO 11-20 08:00:01 [__init__.py:1] Using CutlassNvFp4LinearKernel for NVFP4 GEMM\n"
        "(Worker pid=7) INFO 11-20 08:00:01 [__init__.py:846] Selected CutlassInt8ScaledMMLinearKernel for CompressedTensorsW8A8Int8\n"
        "(Worker pid=7) INFO 11-20 08:00:01 [auto_gptq.py:352] Using MarlinLinearKernel for AutoGPTQLinearMethod\n"
        "(Worker pid=7) INFO 11-20 08:00:01 [mm_encoder_attention.py:372] Using TORCH_SDPA for MMEncoderAttention.\n"
    )
    kernels = ["FLASHINFER_CUTLASS", "CutlassNvFp4LinearKernel"]
    evidence = proven(request={**user_model, "kernels": kernels})["record"]["evidence"]
    assert evidence[-5:] == [
        "NvFp4 experts use MARLIN; the plan expected FLASHINFER_CUTLASS",
        "Unquantized experts use FlashInfer CUTLASS; the plan expected FLASHINFER_CUTLASS",
        "NVFP4 weights use CutlassNvFp4LinearKernel",
        "CompressedTensorsW8A8Int8 weights use CutlassInt8ScaledMMLinearKernel; the plan expected FLASHINFER_CUTLASS",
        "AutoGPTQLinearMethod weights use MarlinLinearKernel; the plan expected FLASHINFER_CUTLASS",
    ]


def test_a_users_model_is_compared_with_its_last_green_run(proven: Prove, user_model: dict[str, Any]) -> None:
    first = proven(request=user_model)
    assert (first["state"], len(first["record"]["evidence"])) == ("ready", 1)
    evidence = proven(request=user_model)["record"]["evidence"]
    assert "differ from the last green run" in evidence[1]
    assert evidence[2] == "32 greedy tokens equal those of the last green run"
    assert evidence[3].startswith("log probabilities after a text of ")
    assert evidence[3].endswith("differ from the last green run by 0.0000 on average over 32 tokens")
    drifted = refusal(proven(request=user_model, forced=[-5.0] * 32))
    assert "by up to 3.5000 (token" in drifted
    assert "-1.500 then, -5.000 now); allowed 0.02 on average" in drifted
    words = "characters differ from the last green run by 0.1000 on average over 32 tokens; allowed 0.02"
    assert words in refusal(proven(request=user_model, long_logprobs=[-1.6] * 32))
    # A run that is not green leaves the known values as they were.
    assert proven(request=user_model)["state"] == "ready"


def test_an_adapter_is_proven_by_other_answers_than_those_of_its_model(
    proven: Prove, user_model: dict[str, Any]
) -> None:
    """Tried with vLLM 0.32.0: an adapter of random weights changes a log probability by 1.8, one of zeros none."""
    asked = user_model | {"adapters": ["support", "tone"]}
    other = [value - 0.1 for value in LOGPROBS]
    record = proven(request=asked, adapters={"support": other, "tone": other})["record"]
    assert (record["ready"], record["adapters"]) == (True, ["support", "tone"])
    assert "adapter `tone` changes log probabilities of a fixed text by up to 0.100" in record["evidence"]
    failed = proven(request=asked, adapters={"support": other})
    assert "adapter `tone` changes log probabilities of a fixed text by up to 0.000: it answers" in refusal(failed)
    assert failed["record"]["adapters"] == []
    wrong = proven(request=asked, adapters={"support": [float("nan"), *LOGPROBS[1:]]})
    assert wrong["record"]["text"] == "adapter `support`: log probabilities of a fixed text are not finite"


def test_the_same_release_computes_the_same_and_another_build_may_round_differently(
    proven: Prove, user_model: dict[str, Any]
) -> None:
    proven(request=user_model)
    assert proven(request=user_model, forced=[-3.05] * 186 + LOGPROBS)["state"] == "failed"
    answer = proven(request=user_model | {"release": "e2-s1"}, forced=[-3.05] * 186 + LOGPROBS)
    assert answer["state"] == "ready", answer
    assert "another build or other settings" in answer["record"]["evidence"][1]


@pytest.mark.parametrize(("logprob", "state"), [(-0.1, "failed"), (-1.4, "ready")])
def test_a_text_that_continues_differently_is_named_and_only_a_near_tie_passes(
    proven: Prove, user_model: dict[str, Any], logprob: float, state: str
) -> None:
    proven(request=user_model)
    other = tokens(4, 7)
    answer = proven(request=user_model, tokens=other, logprobs=[logprob] * 32)
    assert answer["state"] == state
    text = " ".join([answer["record"]["text"] or "", *answer["record"]["evidence"]])
    assert "greedy token 5 of 32 is 7, 104 in the last green run" in text
    assert ("which is now 1.40 nats less likely" in text) == (state == "failed")


@pytest.mark.parametrize("logprob", [-60.0, -10.4, -9.5])
def test_a_model_that_is_no_better_than_guessing_is_refused(
    proven: Prove, user_model: dict[str, Any], logprob: float
) -> None:
    text = proven(request=user_model, forced=[logprob] * 218)["record"]["text"]
    assert f"mean log probability {logprob:.3f}, guessing among 32000 tokens -10.373" in text


def test_a_model_that_names_no_vocabulary_is_not_compared_with_guessing(
    proven: Prove, prefix: Path, user_model: dict[str, Any]
) -> None:
    (prefix / "models/qwen3/config.json").write_text("{}")
    answer = proven(request=user_model, forced=[-60.0] * 218)
    assert answer["state"] == "ready"
    assert "names no vocabulary" in answer["record"]["evidence"][0]


def test_other_files_under_the_same_name_are_not_compared(
    proven: Prove, prefix: Path, user_model: dict[str, Any]
) -> None:
    proven(request=user_model)
    (prefix / "models/qwen3/config.json").write_text('{"new": 1}')
    answer = proven(request=user_model, forced=[-9.0] * 32)
    assert (answer["state"], len(answer["record"]["evidence"])) == ("ready", 1)


def test_probabilities_that_are_not_finite_are_refused(proven: Prove, user_model: dict[str, Any]) -> None:
    answer = proven(request=user_model, forced=[-9999.0, *[-1.0] * 31])
    assert answer["record"]["text"].startswith("1 of ")


@pytest.fixture(params=["embed", "score"])
def vector_model(prefix: Path, user_model: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    """Changes of a request for a model that makes vectors."""
    (prefix / "models/qwen3/config.json").write_text('{"model_type": "bert"}')
    (prefix / "bin/vectors.py").symlink_to(vectors.__file__)
    return user_model | {"task": request.param, "reference": str(prefix / "verify/reference-qwen3.json")}


@pytest.mark.slow
def test_vectors_are_proven_by_properties_and_the_last_green_run(proven: Prove, vector_model: dict[str, Any]) -> None:
    first = proven(request=vector_model)
    record = ServeRecord.model_validate(first["record"])
    assert (first["state"], record.task, record.chat) == ("ready", vector_model["task"], False), record.text
    properties, reference = record.evidence
    size = "8 numbers" if record.task == "embed" else "1 number"
    assert properties == f"3 texts have different vectors of {size}, alone and together within 0.00000"
    # This Python has no transformers, as that of a user's own build may have one that does not know the model.
    assert reference.startswith(
        "not compared with transformers: transformers does not compute it: ModuleNotFoundError("
    )
    evidence = proven(request=vector_model)["record"]["evidence"]
    assert "vectors differ from the last green run" in evidence[2]
    assert "allowed 0.02; if that is meant, remove " in refusal(proven(request=vector_model, differs="weights"))
    # A run that is not green leaves the known values as they were.
    assert proven(request=vector_model)["state"] == "ready"


@pytest.mark.slow
def test_vectors_are_compared_with_the_reference(proven: Prove, vector_model: dict[str, Any], prefix: Path) -> None:
    proven(request=vector_model)
    [kept] = (prefix / "verify").glob("vectors-*.json")
    known, reference = json.loads(kept.read_text()), Path(vector_model["reference"])
    kept.unlink()
    reference.write_text(
        json.dumps({"inputs": known["inputs"], "vectors": known["vectors"], "unknown": None, "is_normalised": False})
    )
    evidence = proven(request=vector_model)["record"]["evidence"]
    assert evidence[1] == "vectors differ from those of transformers in float32 by up to 0.0000 of their length"
    wrong = refusal(proven(request=vector_model, differs="weights"))
    assert wrong.endswith("bfloat16 rounds by at most 0.1: weights or pooling are not the model's")


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        ("batch", "alone and among others; bfloat16 rounds by at most 0.1"),
        ("nothing", "those of the same text by up to 0.00000: the server ignores its input"),
    ],
)
def test_vectors_that_depend_on_other_texts_or_on_none_are_refused(
    proven: Prove, vector_model: dict[str, Any], differs: str, words: str
) -> None:
    assert words in refusal(proven(request=vector_model, differs=differs))


def test_a_reranker_may_give_all_that_answers_nothing_about_0(proven: Prove, vector_model: dict[str, Any]) -> None:
    answer = proven(request=vector_model | {"task": "score"}, differs="relevant")
    assert answer["state"] == "ready", refusal(answer)


def test_a_normalised_vector_has_length_1(proven: Prove, vector_model: dict[str, Any]) -> None:
    known = {"inputs": ["a", "b"], "vectors": None, "unknown": "a test", "is_normalised": True}
    Path(vector_model["reference"]).write_text(json.dumps(known))
    embeds = vector_model | {"task": "embed"}
    assert proven(request=embeds)["state"] == "ready"
    long = refusal(proven(request=embeds, length=2.0))
    assert long == "a vector has length 2.000; the model's files normalise it to 1"


def test_options_that_change_the_vectors_leave_the_reference_out(proven: Prove, vector_model: dict[str, Any]) -> None:
    evidence = proven(request=vector_model | {"pooling": ["--pooler-config"]})["record"]["evidence"]
    assert evidence[1] == "not compared with transformers: firstlight_vllm_args has --pooler-config"


def test_an_adapter_of_vectors_changes_them(proven: Prove, vector_model: dict[str, Any]) -> None:
    asked = vector_model | {"adapters": ["tone"]}
    evidence = proven(request=asked, differs="adapter")["record"]["evidence"]
    assert "adapter `tone` changes vectors of fixed texts by up to " in evidence[-1]
    assert "it is not applied, or its weights are zero" in refusal(proven(request=asked))


RoomProves = Callable[..., ServeRecord]


@pytest.fixture
def phase_proof(prefix: Path, serving: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> RoomProves:
    """Run the phase's own proof of a service that is still starting for that many requests for its health."""
    monkeypatch.setenv("PATH", with_first(prefix / "bin")["PATH"])
    monkeypatch.setenv("STATE", str(prefix / "state"))

    def call(*, unhealthy: int, model: ServedModel = BUILTIN, **options: Any) -> ServeRecord:
        settings, place = Settings(port=serving(unhealthy=unhealthy)), str(prefix)
        wanted = stack("0.26.0", "cu130", "FLASH_ATTN")
        command = serve_command(wanted, settings, facts(card(0)), prefix=place, model=model)
        request = readiness_request(
            prefix=place,
            stack=wanted,
            settings=settings,
            command=command,
            service=render_service(command, settings, prefix=place, supervisor="systemd", user="root", home="/root"),
            model=model,
            environment="abc",
            release="r1",
        )
        session = LocalSession("here", Connection(kind="local"))
        return prove(session, prefix=place, root=False, request=request, **options)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("model", [BUILTIN, ServedModel(kind="files", name="qwen3")], ids=lambda model: model.kind)
def test_the_phase_waits_in_slices(
    phase_proof: RoomProves, monkeypatch: pytest.MonkeyPatch, model: ServedModel
) -> None:
    monkeypatch.setattr("provision.phases.serve.readiness.SLICE_S", 0.3)
    seen: list[str] = []
    record = phase_proof(unhealthy=10, model=model, progress=seen.append)
    assert record.ready, record.text
    assert 0 < record.startup_s["health"] <= record.startup_s["proven"]
    assert seen


def test_the_phase_ends_at_its_deadline(phase_proof: RoomProves) -> None:
    record = phase_proof(unhealthy=NEVER_HEALTHY, deadline_s=0.5)
    assert (record.ready, record.text) == (False, "the service runs, but has not answered a request within 0.5 s")


def test_a_supervisord_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and never answers."""
    monkeypatch.setattr(service, "SUPERVISORD_S", 0.2)
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "run/supervisor.sock"))
        hung.listen()
        request = readiness(tmp_path, supervisor="supervisor", unit="firstlight-vllm")
        state = service.service_state(request, service.ServiceState(0, None, None))
    assert state.died == f"firstlight-vllm: supervisord does not answer on {tmp_path}/run/supervisor.sock: timed out"


def test_lines_of_one_start_are_found_by_its_process() -> None:
    log = [f"{word} {pid}" for pid in (7, 8, 9) for word in ("preflight: start of /x/vllm with pid", "line of")]
    assert lines_of_start(log, 8) == ["preflight: start of /x/vllm with pid 8", "line of 8"]
    assert lines_of_start(log, 5) == ["preflight: start of /x/vllm with pid 9", "line of 9"]


def test_an_exception_without_a_message_is_reported_with_its_code() -> None:
    prefix = "(Worker pid=21054) ERROR 11-20 08:01:40 [multiproc_executor.py:953] "
    log = [
        prefix + "Traceback (most recent call last):",
        prefix + '  File "embedding.py", line 515, in weight_loader',
        prefix + "    assert loaded.shape[0] == self.vocabulary",
        prefix + "           ^^^^^^^^^^^^^^^^^^",
        prefix + "AssertionError",
    ]
    assert causes(log) == ["AssertionError at `assert loaded.shape[0] == self.vocabulary`"]


def test_the_cause_of_a_refused_argument_is_the_line_that_names_it() -> None:
    log = ["usage: vllm [-h] [-v]", "            {chat,complete,serve}", "            ...", ""]
    refused = "vllm: error: unrecognized arguments: --no-such-argument 7"
    assert causes([*log, refused]) == [refused]
