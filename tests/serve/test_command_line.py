"""The command line and environment of `vllm serve`."""

import json
import re
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from syrupy.assertion import SnapshotAssertion

from provision.core.errors import ServeError
from provision.core.models.facts import Amd, AmdGpu, Cpu, HostFacts, Memory
from provision.core.models.settings import Settings
from provision.core.models.stack import CudaCompat, FlashInferPlan, ModelPlan, ServingChoice, ServingPlan, Stack
from provision.phases.serve import options
from provision.phases.serve.command_line import ServeCommand, serve_command
from provision.phases.serve.model import BUILTIN, ServedModel
from tests.serve.conftest import GIB, card, cards, facts, stack

PREFIX = "/opt/firstlight"
QWEN = ServedModel(kind="files", name="qwen3-8b", attention_heads=32)
ONE_CARD = facts(card(0))


def command(
    planned: Stack | None = None,
    host: HostFacts | None = None,
    *,
    served: ServedModel = QWEN,
    peer_writes: bool = True,
    is_shared: bool = False,
    **settings: Any,
) -> ServeCommand:
    """Return the command of one service; by default it serves a user's model on a CPU host."""
    return serve_command(
        planned or stack(),
        Settings(**settings),
        host or facts(),
        prefix=PREFIX,
        model=served,
        peer_writes=peer_writes,
        is_shared=is_shared,
    )


def rendered(command: ServeCommand) -> str:
    text = json.dumps({"argv": command.argv, "environment": command.environment}, indent=1)
    return re.sub("/start-[0-9a-f]{16}", "/start-KEY", text)


def value_of(command: ServeCommand, option: str) -> str | None:
    return command.argv[command.argv.index(option) + 1] if option in command.argv else None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "staged-1a2b3c4d"),
        ({"model": "Qwen/Qwen3-8B@main"}, "Qwen/Qwen3-8B"),
        ({"model": "/srv/models/ours"}, "ours"),
        ({"model": "/srv/models/ours", "served_model_name": "chat"}, "chat"),
    ],
)
def test_the_name_of_a_model_in_the_api_does_not_follow_its_files(settings: dict[str, Any], name: str) -> None:
    made = command(served=QWEN.model_copy(update={"name": "staged-1a2b3c4d"}), **settings)
    assert (made.served_name, value_of(made, "--served-model-name")) == (name, name)
    assert f"{PREFIX}/models/staged-1a2b3c4d" in made.argv


def test_a_chat_template_is_named_where_the_model_lies() -> None:
    made = command(chat_template="/home/ann/t.jinja")
    assert value_of(made, "--chat-template") == f"{PREFIX}/models/qwen3-8b/chat_template.jinja"


@pytest.mark.parametrize(("ranks", "most"), [((8,), "8"), ((4, 24), "32"), ((512,), "512"), ((513,), "513")])
def test_adapters_are_served_from_the_folder_of_their_model(ranks: tuple[int, ...], most: str) -> None:
    made = command(
        served=QWEN.model_copy(update={"adapters": {f"a{number}": rank for number, rank in enumerate(ranks)}})
    )
    place = made.argv.index("--lora-modules")
    modules = [f"a{number}={PREFIX}/models/qwen3-8b/lora/a{number}" for number in range(len(ranks))]
    assert [*made.argv[place + 1 : place + 1 + len(ranks)]] == modules
    assert (value_of(made, "--max-loras"), value_of(made, "--max-lora-rank")) == (str(len(ranks)), most)
    assert "--enable-lora" in made.argv


def test_adapters_on_a_cpu_are_served_one_request_at_a_time_unless_settings_say_more(cuda_stack: Stack) -> None:
    adapted = QWEN.model_copy(update={"adapters": {"a": 8}})
    assert value_of(command(served=adapted), "--max-num-seqs") == "1"
    assert command(served=adapted, vllm_args=["--max-num-seqs", "8"]).argv[-2:] == ("--max-num-seqs", "8"), (
        "vLLM takes the last"
    )
    assert "--max-num-seqs" not in command(cuda_stack, facts(*cards(1)), served=adapted).argv


def test_a_draft_model_is_named_where_the_model_lies() -> None:
    def asked(*, has_draft: bool, **speculative: object) -> object:
        made = command(served=QWEN.model_copy(update={"has_draft": has_draft}), speculative=speculative)
        return json.loads(value_of(made, "--speculative-config") or "null")

    draft = f"{PREFIX}/models/qwen3-8b/draft/qwen3-eagle3"
    tokens = {"num_speculative_tokens": 4}
    assert asked(has_draft=True, model="org/qwen3-eagle3@v2", **tokens) == {"model": draft, **tokens}
    assert asked(has_draft=False, model="org/small@v2", **tokens) == {"model": "org/small", "revision": "v2", **tokens}
    assert asked(has_draft=False, method="ngram", **tokens) == {"method": "ngram", **tokens}
    assert asked(has_draft=False) is None


def test_traces_are_sent_without_another_start_cache() -> None:
    plain, traced = command(), command(otlp_traces_endpoint="http://10.0.0.5:4317")
    assert value_of(traced, "--otlp-traces-endpoint") == "http://10.0.0.5:4317"
    assert "--otlp-traces-endpoint" not in plain.argv
    assert traced.start_cache == plain.start_cache


@pytest.mark.parametrize(
    "endpoint", ["10.0.0.5:4317", "udp://10.0.0.5:4317", "http://", "http://user:word@host:4317", "http://host/a b"]
)
def test_an_endpoint_for_traces_is_an_address_without_a_password(endpoint: str) -> None:
    with pytest.raises(ValidationError):
        Settings(otlp_traces_endpoint=endpoint)


def test_the_builtin_model_is_served_on_a_cpu_host(snapshot: SnapshotAssertion) -> None:
    assert rendered(command(served=BUILTIN)) == snapshot


def test_the_builtin_model_is_served_on_eight_cards(snapshot: SnapshotAssertion, cuda_stack: Stack) -> None:
    assert rendered(command(cuda_stack, facts(*cards(8)), served=BUILTIN)) == snapshot


def test_releases_before_the_attention_option_get_its_variable(snapshot: SnapshotAssertion) -> None:
    old = stack("0.9.1", "cu128", "FLASH_ATTN", "FLASH_ATTN_VLLM_V1")
    assert rendered(command(old, ONE_CARD, served=BUILTIN)) == snapshot


def test_compatibility_libraries_come_first_in_the_service_s_own_search_path(cuda_stack: Stack) -> None:
    compat = CudaCompat(cuda="13.0", package="cuda-compat-13-0", folder="/usr/local/cuda-13.0/compat")

    def search(planned: Stack, **env: str) -> str | None:
        return command(planned, ONE_CARD, env=env).environment.get("LD_LIBRARY_PATH")

    assert search(cuda_stack) is None
    asked = cuda_stack.model_copy(update={"cuda_compat": compat})
    assert search(asked) == "/usr/local/cuda-13.0/compat"
    assert search(asked, LD_LIBRARY_PATH="/opt/lib") == "/usr/local/cuda-13.0/compat:/opt/lib"


def test_the_variables_of_a_backend_are_in_the_service_s_environment_unless_the_user_sets_them() -> None:
    given = {"VLLM_ROCM_USE_AITER": "1", "AITER_JIT_DIR": "{cache}/aiter"}
    amd = stack("0.31.0", "rocm7.2", "ROCM_AITER_FA", environment=given)
    host = facts().model_copy(update={"amd": Amd(gpus=(AmdGpu(index=0, name="MI300X"),))})
    found = command(amd, host).environment
    start = found["TRITON_CACHE_DIR"].removesuffix("/triton")
    assert found.items() >= {"VLLM_ROCM_USE_AITER": "1", "AITER_JIT_DIR": f"{start}/aiter"}.items()
    assert command(amd, host, env={"VLLM_ROCM_USE_AITER": "0"}).environment["VLLM_ROCM_USE_AITER"] == "0"


SWITCHES = {"NCCL_P2P_DISABLE": "1", "VLLM_ALLREDUCE_USE_SYMM_MEM": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0"}
FUSED = "--compilation-config.pass_config.fuse_allreduce_rms=false"


@pytest.mark.parametrize(("count", "arrive", "off"), [(2, False, True), (2, True, False), (1, False, False)])
def test_cards_with_lost_writes_use_no_writes_between_cards(
    cuda_stack: Stack, count: int, arrive: bool, off: bool
) -> None:
    made = command(cuda_stack, facts(*cards(count)), peer_writes=arrive)
    assert ("--disable-custom-all-reduce" in made.argv) is off
    assert (made.environment.items() >= SWITCHES.items()) is off
    assert (FUSED in made.argv) is off
    assert not off or list(made.environment) == sorted(made.environment)


@pytest.mark.parametrize(
    ("version", "variables", "fused"),
    [("0.9.1", 1, False), ("0.10.2", 2, False), ("0.16.0", 2, False), ("0.17.0", 3, True)],
)
def test_a_release_gets_only_options_that_it_has_for_such_writes(version: str, variables: int, fused: bool) -> None:
    assert list(options.peer_write_switches(version)) == list(SWITCHES)[:variables]
    assert (FUSED in options.without_peer_writes(version, ())) is fused


@pytest.mark.parametrize(
    "given",
    [
        ("--compilation-config.pass_config.fuse_allreduce_rms=true",),
        ("-cc", '{"pass_config": {"fuse_allreduce_rms": true}}'),
        ("-cc", "3"),
        ("-cc.mode=3",),
        ('--compilation_config={"mode": 3}',),
    ],
)
def test_a_users_own_settings_of_the_compiler_are_kept(given: tuple[str, ...]) -> None:
    assert options.without_peer_writes("0.32.0", given) == ("--disable-custom-all-reduce", *given)


def test_a_users_own_setting_of_such_writes_is_kept(cuda_stack: Stack) -> None:
    made = command(cuda_stack, facts(*cards(2)), peer_writes=False, env={"NCCL_P2P_DISABLE": "0"})
    assert made.environment["NCCL_P2P_DISABLE"] == "0"


def test_a_host_without_nvcc_takes_no_kernels_that_are_compiled_at_start(cuda_stack: Stack) -> None:
    def environment(kernels: Literal["compiled", "prebuilt", "off"], **settings: Any) -> dict[str, str]:
        plan = FlashInferPlan(version="0.7.0.post1", kernels=kernels)
        return command(cuda_stack.model_copy(update={"flashinfer": plan}), ONE_CARD, **settings).environment

    name = "VLLM_USE_FLASHINFER_SAMPLER"
    assert environment("off")[name] == "0"
    assert name not in environment("compiled")
    assert name not in environment("prebuilt")
    assert environment("off", env={name: "1"})[name] == "1"
    deep_gemm = "VLLM_USE_DEEP_GEMM"
    assert deep_gemm not in environment("compiled")
    assert environment("off")[deep_gemm] == environment("prebuilt")[deep_gemm] == "0"


def test_flashinfer_finds_the_compiler_of_the_plan_and_ninja_of_the_environment(cuda_stack: Stack) -> None:
    def environment(toolkit: str | None) -> dict[str, str]:
        plan = FlashInferPlan(version="0.7.0.post1", kernels="compiled", toolkit=toolkit)
        return command(cuda_stack.model_copy(update={"flashinfer": plan}), ONE_CARD).environment

    found = environment("/usr/local/cuda-13.0")
    assert found["CUDA_HOME"] == "/usr/local/cuda-13.0"
    assert found["PATH"].split(":")[:2] == [f"{PREFIX}/current/bin", "/usr/local/cuda-13.0/bin"]
    assert {"/usr/bin", "/bin"} <= set(found["PATH"].split(":"))
    assert environment(None)["CUDA_HOME"] == "/usr/local/cuda"


def test_a_users_model_is_served_with_every_setting(snapshot: SnapshotAssertion, cuda_stack: Stack) -> None:
    made = command(
        cuda_stack.model_copy(update={"gpus": (1, 2)}),
        facts(*cards(4)),
        served_model_name="chat",
        gpus=(1, 2),
        max_model_len=32768,
        memory_share=0.85,
        dtype="bfloat16",
        port=9000,
        env={"VLLM_LOGGING_LEVEL": "DEBUG"},
        vllm_args=("--enable-prefix-caching", "--max-num-seqs", "64"),
    )
    assert rendered(made) == snapshot


def test_a_users_model_on_a_cpu_host_gets_a_quarter_of_the_memory_of_its_cgroup() -> None:
    made = command(host=facts(memory=Memory(total=64 * GIB, cgroup_limit=32 * GIB)))
    assert value_of(made, "--kv-cache-memory-bytes") == str(8 * GIB)
    assert "--enforce-eager" not in made.argv


def test_a_service_among_others_on_a_cpu_host_has_as_many_unbound_threads_as_its_processors() -> None:
    host = facts().model_copy(update={"cpu": Cpu(logical=16)})
    variables = command(host=host, is_shared=True).environment
    assert (variables["VLLM_CPU_OMP_THREADS_BIND"], variables["OMP_NUM_THREADS"]) == ("nobind", "16")
    chosen = command(host=host, is_shared=True, env={"OMP_NUM_THREADS": "4"})
    assert chosen.environment["OMP_NUM_THREADS"] == "4"
    alone = command(host=host).environment
    assert not {"VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"} & alone.keys()


@pytest.mark.parametrize(
    ("version", "env", "expected"),
    [("0.18.0", {}, "0"), ("0.17.1", {}, None), ("0.32.0", {"VLLM_USE_AOT_COMPILE": "1"}, "1")],
)
def test_a_cpu_host_saves_no_function_that_its_release_cannot_load(
    version: str, env: dict[str, str], expected: str | None
) -> None:
    assert command(stack(version), env=env).environment.get("VLLM_USE_AOT_COMPILE") == expected


PLANNED = ModelPlan(
    name="qwen3-8b",
    architecture="Qwen3ForCausalLM",
    weights_bytes=16 * GIB,
    tensor_parallel=2,
    pipeline_parallel=1,
    data_parallel=1,
    own_max_model_len=40960,
    max_model_len=20480,
    device_weights_bytes=8 * GIB,
    device_overhead_bytes=2 * GIB,
    device_cache_bytes=3 * GIB,
    cache_tokens=24576,
    flags=("--tensor-parallel-size", "2", "--max-model-len", "20480"),
)


def test_the_planned_length_is_passed_to_the_server(cuda_stack: Stack) -> None:
    planned, host = cuda_stack.model_copy(update={"model": PLANNED}), facts(*cards(3))
    made = command(planned, host)
    assert value_of(made, "--tensor-parallel-size") == "2"
    assert value_of(made, "--max-model-len") == "20480"
    assert value_of(made, "--kv-cache-memory-bytes") is None
    assert value_of(command(planned, host, max_model_len=512), "--max-model-len") == "512"


def test_the_choices_of_the_plan_are_served_and_the_users_own_words_come_last(cuda_stack: Stack) -> None:
    choice = ServingChoice(
        name="reasoning_parser", value="qwen3", by="family", flags=("--reasoning-parser", "qwen3"), text=""
    )
    other = ServingChoice(name="tool_parser", by="setting", text="none")
    planned = cuda_stack.model_copy(update={"serving": ServingPlan(family="Qwen3", choices=(choice, other))})
    argv = command(planned, ONE_CARD, vllm_args=("--max-num-seqs", "64")).argv
    assert argv.index("--reasoning-parser") < argv.index("--max-num-seqs")
    assert argv[argv.index("--reasoning-parser") + 1] == "qwen3"
    of_vectors = command(planned, ONE_CARD, served=QWEN.model_copy(update={"task": "embed"})).argv
    assert "--reasoning-parser" not in of_vectors, "a model that makes no text has none to parse"
    assert "--trust-remote-code" not in argv


def test_a_length_that_was_not_reduced_is_left_to_the_model() -> None:
    plan = PLANNED.model_copy(update={"max_model_len": 40960, "tensor_parallel": 1, "flags": ()})
    made = command(stack().model_copy(update={"model": plan}))
    assert value_of(made, "--max-model-len") is None
    assert value_of(made, "--kv-cache-memory-bytes") == str(3 * GIB)


@pytest.mark.parametrize(("capability", "dtype"), [("7.5", "float16"), ("8.0", "auto"), ("12.0", "auto")])
def test_cards_without_bfloat16_get_float16(capability: str, dtype: str) -> None:
    made = command(stack("0.26.0", "cu130", "TRITON_ATTN"), facts(card(0, capability=capability)))
    assert value_of(made, "--dtype") == dtype


def test_a_model_that_is_planned_in_float32_is_served_so() -> None:
    plan = PLANNED.model_copy(update={"flags": ("--dtype", "float32"), "tensor_parallel": 1})
    planned = stack("0.26.0", "cu130", "TRITON_ATTN").model_copy(update={"model": plan})
    assert value_of(command(planned, facts(card(0, capability="7.5"))), "--dtype") == "float32"


@given(st.lists(st.sampled_from(["lora_resolver", "firstlight_attention", "other"]), unique=True))
def test_a_list_of_allowed_plugins_includes_ours(names: list[str]) -> None:
    made = command(env={"VLLM_PLUGINS": ",".join(names)})
    assert set(made.environment["VLLM_PLUGINS"].split(",")) == {*names, "firstlight_attention"}


def test_stack_without_vllm_cannot_serve() -> None:
    with pytest.raises(ServeError, match="no vLLM to serve with"):
        command(stack().model_copy(update={"vllm": None}))
