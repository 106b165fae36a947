from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from provision.core.models.settings import Settings
from provision.phases.plan.fit.result import alternatives, fit
from provision.phases.plan.fit.serving_request import DeviceBudget, ServingRequest, serving_request_of
from provision.phases.plan.fit.shape import Shape
from tests.fit.models import GIB, LLAMA_8B_NUMBERS, deepseek_v3, llama_8b, llama_70b, mixtral

MODELS = [
    llama_8b(),
    llama_70b(),
    mixtral(),
    deepseek_v3(),
    llama_8b(layer_types=["sliding_attention", "full_attention"] * 16, sliding_window=1024),
]
many = hypothesis_settings(max_examples=80, deadline=None)


def cards(count: int, gib: int) -> DeviceBudget:
    return DeviceBudget("cuda", count, gib * GIB)


def test_a_small_model_on_a_large_card_keeps_its_own_length() -> None:
    found = fit(llama_8b(), ServingRequest(), cards(1, 79))
    assert (found.problem, found.tensor, found.length) == (None, 1, 131072)
    assert found.weights == pytest.approx(2 * LLAMA_8B_NUMBERS, abs=16)
    assert found.tokens is not None
    assert found.tokens > 131072
    # what is left of nine tenths of the card is the cache
    assert found.memory == int(79 * GIB * 0.9)
    assert found.cache_bytes == found.memory - found.weights - found.overhead


def test_the_longest_context_is_chosen_if_the_models_own_does_not_fit() -> None:
    found = fit(llama_8b(), ServingRequest(), cards(1, 23))
    assert found.problem is None
    assert found.length is not None
    assert found.longest is not None
    assert 2048 <= found.length <= found.longest < 131072
    assert found.length % 256 == 0


def test_weights_too_large_name_the_figures_and_the_smallest_change() -> None:
    found = fit(llama_70b(), ServingRequest(), cards(1, 79))
    assert found.problem
    assert (
        "the weights of this model (LlamaForCausalLM) need 131.4 GiB, and the overhead of the engine is"
        in found.problem
    )
    offered = [change.text for change in alternatives(llama_70b(), ServingRequest(), cards(1, 79))]
    assert offered[0] == "with 2 such GPUs"
    assert "with GPUs of 192 GiB" in offered


def test_a_length_that_does_not_fit_is_refused_with_one_that_does() -> None:
    wanted = ServingRequest(length=65536)
    found = fit(llama_8b(), wanted, cards(1, 23))
    assert found.problem
    assert "65536 tokens needs 8.0 GiB of cache" in found.problem
    assert next(alternatives(llama_8b(), wanted, cards(1, 23))).policy == {"max_model_len": str(found.longest)}


def test_a_context_beyond_the_models_own_length_is_refused() -> None:
    found = fit(mixtral(), ServingRequest(length=40000), cards(8, 140))
    assert found.problem == "a context of 40000 tokens is requested; the model supports 32768"
    yarn = '{"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}'
    longer = fit(mixtral(), ServingRequest(length=40000, arguments=("--hf-overrides", yarn)), cards(8, 140))
    assert (longer.problem, longer.length) == (None, 40000)


@pytest.mark.parametrize(("value", "taken"), [("1", True), ("True", True), ("0", False)])
def test_a_context_beyond_the_models_own_length_is_taken_where_vllm_is_told_to(value: str, *, taken: bool) -> None:
    settings = Settings.model_validate({"max_model_len": 40000, "env": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": value}})
    found = fit(mixtral(), serving_request_of(settings), cards(8, 140))
    assert (found.problem is None) == taken


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (
            ServingRequest(tensor=3),
            "32 attention heads cannot be divided by 3",
        ),
        (ServingRequest(tensor=4, data=2), "tensor 4 x pipeline 1 x data 2 parallel needs 8 GPUs, 4 serve"),
        (ServingRequest(pipeline=33), "32 layers cannot be distributed over 33 pipeline stages"),
    ],
)
def test_an_impossible_split_is_refused(wanted: ServingRequest, text: str) -> None:
    found = fit(llama_8b(), wanted, cards(4, 79))
    assert found.problem == text


def test_three_cards_serve_as_two() -> None:
    assert fit(llama_8b(), ServingRequest(), cards(3, 23)).tensor == 2


def test_mla_on_eight_cards() -> None:
    assert fit(deepseek_v3(), ServingRequest(), cards(8, 79)).problem
    found = fit(deepseek_v3(), ServingRequest(), cards(8, 140))
    assert (found.problem, found.tensor, found.length) == (None, 8, 163840)


def test_a_cpu_host_gives_a_quarter_of_its_memory_and_more_only_if_needed() -> None:
    roomy = fit(llama_8b(), ServingRequest(length=8192), DeviceBudget("cpu", 1, 64 * GIB))
    assert roomy.cache_bytes == 16 * GIB
    tight = fit(llama_8b(), ServingRequest(), DeviceBudget("cpu", 1, 22 * GIB))
    assert tight.problem is None
    assert tight.cache_bytes is not None
    assert tight.cache_bytes + tight.weights + tight.overhead <= 22 * GIB
    assert fit(llama_8b(), ServingRequest(), DeviceBudget("cpu", 1, 16 * GIB)).problem


@given(length=st.integers(20_000, 120_000))
@many
def test_a_cpu_host_with_enough_memory_serves_the_requested_length(length: int) -> None:
    found = fit(llama_8b(), ServingRequest(length=length), DeviceBudget("cpu", 1, 40 * GIB))
    assert (found.problem, found.length) == (None, length)


def test_a_model_with_unknown_cache_size_is_evaluated_by_its_weights() -> None:
    model = llama_8b(architectures=["JambaForCausalLM"])
    found = fit(model, ServingRequest(), cards(1, 79))
    assert (found.problem, found.length, found.cache_bytes) == (None, None, None)
    assert fit(model, ServingRequest(), cards(1, 14)).problem


def test_settings_and_arguments_change_the_memory_budget() -> None:
    arguments = ["--kv_cache_dtype=fp8_e4m3", "--max-num-seqs", "64", "--enforce_eager", "--speculative-config", "{}"]
    settings = Settings.model_validate({"tensor_parallel": 2, "max_model_len": 4096, "vllm_args": arguments})
    wanted = serving_request_of(settings)
    assert (wanted.tensor, wanted.length, wanted.sequences, wanted.eager, wanted.drafts) == (
        2,
        4096,
        64,
        True,
        True,
    )
    assert wanted.cache_dtype == "fp8_e4m3"
    assert serving_request_of(Settings(lora={"a": "org/a"})).adapters
    assert fit(llama_8b(), wanted, cards(2, 79)).length is None


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("32768", 32768), ("32k", 32000), ("32K", 32768), ("1.5k", 1500), ("2m", 2 * 10**6), ("1.5K", None), ("k", None)],
)
def test_numbers_may_have_the_suffixes_of_vllm(text: str, tokens: int | None) -> None:
    settings = Settings.model_validate({"vllm_args": ["--max-num-batched-tokens", text]})
    assert serving_request_of(settings).batch == tokens


def test_a_draft_model_takes_memory_of_each_device() -> None:
    small = llama_8b(num_hidden_layers=4)
    draft = replace(small, weights=replace(small.weights, by_dtype=(("BF16", 2 * GIB),)))
    model = replace(llama_8b(), draft=draft)
    request = serving_request_of(Settings(speculative={"model": "org/draft", "num_speculative_tokens": 4}))
    alone, found = fit(llama_8b(), ServingRequest(), cards(1, 40)), fit(model, request, cards(1, 40))
    assert found.weights - alone.weights == pytest.approx(2 * GIB, abs=16)
    assert alone.cache is not None
    assert found.cache is not None
    assert found.cache.block_bytes * 32 == alone.cache.block_bytes * 36, "as many more layers as the draft model has"
    split = fit(model, request, cards(4, 40))
    whole = fit(model, replace(request, draft_tensor=1), cards(4, 40))
    assert whole.weights > split.weights
    too_large = fit(model, request, cards(1, 16))
    assert "those of its draft model 2.0 GiB" in (too_large.problem or "")
    odd = replace(model, draft=replace(draft, heads=6, kv_heads=6))
    assert (
        fit(odd, replace(request, tensor=4), cards(4, 40)).problem
        == "the draft model: 6 attention heads cannot be divided by 4"
    )


@pytest.mark.parametrize(
    ("speculative", "is_computed"),
    [
        ({"method": "ngram", "num_speculative_tokens": 4}, True),
        ({"method": "mtp", "num_speculative_tokens": 1}, False),
        ({"model": "org/unread", "draft_tensor_parallel_size": "one"}, False),
    ],
)
def test_the_cache_is_computed_where_drafts_have_no_layers(speculative: dict[str, object], is_computed: bool) -> None:
    request = serving_request_of(Settings(speculative=speculative))
    assert (fit(llama_8b(), request, cards(1, 79)).cache is not None) is is_computed


@given(
    model=st.sampled_from(MODELS),
    count=st.sampled_from([1, 2, 8]),
    sizes=st.tuples(st.integers(4, 69), st.integers(4, 69)),
)
@many
def test_more_memory_never_shortens_the_context(model: Shape, count: int, sizes: tuple[int, int]) -> None:
    small, large = (fit(model, ServingRequest(), cards(count, gib)) for gib in sorted(sizes))
    assert (small.longest or 0) <= (large.longest or 0)
    assert large.problem is None or small.problem is not None


@given(model=st.sampled_from(MODELS), tensor=st.sampled_from([1, 2, 4]), gib=st.integers(4, 300))
@many
def test_twice_the_devices_halve_the_share_of_each(model: Shape, tensor: int, gib: int) -> None:
    one, two = (fit(model, ServingRequest(tensor=size), cards(8, gib)) for size in (tensor, 2 * tensor))
    assert one.weights / 2 - 1 <= two.weights <= one.weights
    if one.cache and two.cache and model.latent is None:
        assert two.cache.block_bytes * 2 == one.cache.block_bytes


@given(
    model=st.sampled_from(MODELS),
    count=st.sampled_from([1, 2, 3, 8]),
    gib=st.integers(4, 300),
    wanted=st.sampled_from(
        [
            ServingRequest(),
            ServingRequest(length=30000),
            ServingRequest(tensor=2),
            ServingRequest(dtype="float32"),
            ServingRequest(pipeline=2),
        ]
    ),
)
@many
def test_the_chosen_length_fits_and_the_suggestion_helps(
    model: Shape, count: int, gib: int, wanted: ServingRequest
) -> None:
    budget = cards(count, gib)
    found = fit(model, wanted, budget)
    if found.problem is None and found.cache and found.length:
        assert found.cache.bytes_for(found.length) <= (found.cache_bytes or 0)
        assert found.weights + found.overhead + (found.cache_bytes or 0) <= found.memory
    for change in islice(alternatives(model, wanted, budget), 3):
        assert found.problem is not None
        assert fit(model, change.request, change.budget).problem is None


def test_other_arguments_do_not_change_the_answer() -> None:
    wanted = ServingRequest(length=4096)
    assert fit(llama_8b(), wanted, cards(1, 23)) == fit(llama_8b(), replace(wanted, arguments=("--x",)), cards(1, 23))
