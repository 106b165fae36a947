"""Calls of kernels that need a GPU: substitutes with the packages' signatures compute the documented meaning on the CPU."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"
# ruff: noqa: PLR0917 - the signatures are those of the packages

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from verify.attention.cases import CASES, Case
from verify.attention.check import check_kernel_trace, left_to_driver
from verify.attention.providers import Provider, import_problem, packed, paged
from verify.records import CheckContext
from verify.tables import table

TOLERANCE = 2e-5
"""Tolerance of the substitutes, which compute in float32."""


def banded(q: Any, k: Any, v: Any, *, causal: bool, window: Any, softcap: float, slopes: Any) -> Any:
    """Compute one sequence of (tokens, heads, dim) by the documented meaning of flash-attn's arguments.

    Query i sees the keys between i + seqlen_k - seqlen_q - window[0] and i + seqlen_k - seqlen_q + window[1] inclusive.
    """
    groups, places = q.shape[1] // k.shape[1], torch.arange(k.shape[0])
    centre = torch.arange(q.shape[0])[:, None] + k.shape[0] - q.shape[0]
    left, right = (math.inf if side is None or side < 0 else side for side in window)
    seen = (places >= centre - left) & (places <= centre + (0 if causal else right))
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(groups, 1)) / math.sqrt(q.shape[2])
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes is not None:
        scores = scores - slopes[:, None, None] * (centre - places).abs()
    weights = torch.softmax(scores.masked_fill(~seen, -math.inf), 2).nan_to_num(nan=0.0)
    return torch.einsum("hij,jhd->ihd", weights, v.repeat_interleave(groups, 1))


def sequences(q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, **meaning: Any) -> Any:
    assert cu_q.dtype == cu_k.dtype == torch.int32
    queries, keys = (cu.diff().tolist() for cu in (cu_q, cu_k))
    return torch.cat(
        [banded(*parts, **meaning) for parts in zip(q.split(queries), k.split(keys), v.split(keys), strict=True)]
    )


def vllm_varlen(  # the signature of vllm 0.33.0, as far as it is not for other features
    q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, cu_seqlens_k=None, seqused_k=None, q_v=None, dropout_p=0.0,
    softmax_scale=None, causal=False, window_size=None, softcap=0.0, alibi_slopes=None, deterministic=False,
    return_attn_probs=False, block_table=None, return_softmax_lse=False, out=None, scheduler_metadata=None,
    q_descale=None, k_descale=None, v_descale=None, num_splits=0, output_scale=None, fa_version=2,
):  # fmt: skip
    assert (cu_seqlens_k is None) != (seqused_k is None)
    assert fa_version == 2 or alibi_slopes is None
    assert max_seqlen_q == int(cu_seqlens_q.diff().max())
    if block_table is not None:
        lengths = seqused_k.tolist()
        k, v = (
            torch.cat(
                [torch.cat(list(cache[row.long()]))[:length] for row, length in zip(block_table, lengths, strict=True)]
            )
            for cache in (k, v)
        )
        cu_seqlens_k = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    assert max_seqlen_k == int(cu_seqlens_k.diff().max())
    window = (-1, -1) if window_size is None else tuple(window_size)
    meaning = {"causal": causal, "window": window, "softcap": softcap, "slopes": alibi_slopes}
    return sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, **meaning)


def dense(q: Any, k: Any, v: Any, **meaning: Any) -> Any:
    return torch.stack([banded(*parts, **meaning) for parts in zip(q, k, v, strict=True)])


def func_2(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
           deterministic=False, return_attn_probs=False):  # fmt: skip
    return dense(q, k, v, causal=causal, window=window_size, softcap=softcap, slopes=alibi_slopes)


def varlen_2(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
             causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
             return_attn_probs=False, block_table=None):  # fmt: skip
    return sequences(
        q, k, v, cu_seqlens_q, cu_seqlens_k, causal=causal, window=window_size, softcap=softcap, slopes=alibi_slopes
    )


def func_4(q, k, v, qv=None, gather_kv_indices=None, softmax_scale=None, causal=False, window_size=(None, None),
           learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False):  # fmt: skip
    return dense(q, k, v, causal=causal, window=window_size, softcap=softcap, slopes=None), None


def varlen_4(q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None,
             min_seqlen_k=None, seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None,
             softmax_scale=None, causal=False, window_size=(None, None), learnable_sink=None, softcap=0.0):  # fmt: skip
    if page_table is not None:
        assert cu_seqlens_k is None
        pages = {"seqused_k": seqused_k, "block_table": page_table}
        return vllm_varlen(q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, **pages, causal=causal), None
    return sequences(
        q, k, v, cu_seqlens_q, cu_seqlens_k, causal=causal, window=window_size, softcap=softcap, slopes=None
    ), None


def func_3(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
           window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None):  # fmt: skip
    return dense(q, k, v, causal=causal, window=window_size, softcap=softcap, slopes=None)


def varlen_3(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
             softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None,
             window_size=(-1, -1), attention_chunk=0, softcap=0.0):  # fmt: skip
    return sequences(
        q, k, v, cu_seqlens_q, cu_seqlens_k, causal=causal, window=window_size, softcap=softcap, slopes=None
    )


def varlen_aiter(  # the signature of aiter.ops.mha, as far as vLLM 0.32.0 passes it
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, min_seqlen_q=0, dropout_p=0.0, softmax_scale=None,
    causal=False, window_size=(-1, -1), alibi_slopes=None, return_lse=False, out=None, sink_ptr=None,
):  # fmt: skip
    assert (max_seqlen_q, max_seqlen_k) == (int(cu_seqlens_q.diff().max()), int(cu_seqlens_k.diff().max()))
    return sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, causal=causal, window=window_size, softcap=0.0, slopes=None)


def unified_aiter(  # the signature of aiter.ops.triton.unified_attention, as far as vLLM 0.32.0 passes it
    q, k, v, out, cu_seqlens_q, max_seqlen_q, seqused_k, max_seqlen_k, softmax_scale, causal, window_size, block_table,
    softcap, q_descale, k_descale, v_descale, alibi_slopes=None, output_scale=None, sinks=None,
):  # fmt: skip
    assert causal
    assert (max_seqlen_q, max_seqlen_k) == (int(cu_seqlens_q.diff().max()), int(seqused_k.max()))
    assert q_descale is None
    assert (k_descale == 1).all()
    assert (v_descale == 1).all()
    assert math.isclose(softmax_scale, 1 / math.sqrt(q.shape[2]))
    meaning = {"causal": causal, "window_size": window_size, "softcap": softcap, "alibi_slopes": alibi_slopes}
    pages = {"seqused_k": seqused_k, "block_table": block_table}
    out[:] = vllm_varlen(q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, **pages, **meaning)


STAND_INS: dict[str, dict[str, Any]] = {
    "vllm.vllm_flash_attn": {"flash_attn_varlen_func": vllm_varlen},
    "flash_attn": {"flash_attn_func": func_2, "flash_attn_varlen_func": varlen_2},
    "flash_attn_interface": {"flash_attn_func": func_3, "flash_attn_varlen_func": varlen_3},
    "aiter": {"flash_attn_varlen_func": varlen_aiter},
    "aiter.ops.triton.unified_attention": {"unified_attention": unified_aiter},
    "flash_attn.cute": {"flash_attn_func": func_4, "flash_attn_varlen_func": varlen_4},
}
PROVIDERS = (*packed.VLLM, *packed.PACKAGES)
SMALL = [case for case in CASES if case.level != "full"]
ON_AMD = (packed.AITER, paged.AITER_UNIFIED)
TAKEN = [
    (provider, case)
    for device, providers in (("cuda", PROVIDERS), ("rocm", ON_AMD))
    for provider in providers
    for case in SMALL
    if provider.refuses(case, "bfloat16", device) is None
]


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, functions in STAND_INS.items():
        parts = name.split(".")
        for part in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
            module = sys.modules.get(part) or ModuleType(part)
            monkeypatch.setitem(sys.modules, part, module)
        for function, call in functions.items():
            monkeypatch.setattr(sys.modules[name], function, call, raising=False)


@pytest.mark.parametrize(("provider", "case"), TAKEN, ids=lambda one: one.name)
def test_kernels_get_the_arguments_of_the_case(stand_ins: None, provider: Provider, case: Case) -> None:
    inputs = case.inputs("float32")
    assert (provider.compute(case, inputs) - case.exact(inputs)).abs().max() < TOLERANCE


def test_every_level_has_a_problem_for_each_kernel() -> None:
    """Every feature that a row names is used by at least one case."""
    for provider in PROVIDERS:
        asked = set().union(
            *(case.required_features for case in SMALL if not provider.refuses(case, "bfloat16", "cuda"))
        )
        assert asked == set(provider.row["takes"]["cuda"])


@pytest.mark.parametrize(
    ("capability", "fit"),
    [
        ((7, 5), set()),
        ((8, 0), {"vllm_flash_2", "flash_attn_2"}),
        ((9, 0), {"vllm_flash_2", "vllm_flash_3", "vllm_flash_4", "flash_attn_2", "flash_attn_3", "flash_attn_4"}),
        ((10, 0), {"vllm_flash_2", "vllm_flash_4", "flash_attn_2", "flash_attn_4"}),
        ((12, 0), {"vllm_flash_2", "flash_attn_2"}),
    ],
)
def test_a_generation_runs_on_its_own_cards(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fit: set[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    reasons = {provider.name: provider.missing("cuda:0") or "" for provider in PROVIDERS}
    assert {name for name, reason in reasons.items() if "needs compute capability" not in reason} == fit


@pytest.mark.parametrize(("gfx", "reason"), [("gfx942", "no `aiter`"), ("gfx90a", "needs gfx942 or gfx950, this GPU")])
def test_aiter_runs_on_its_own_cards(monkeypatch: pytest.MonkeyPatch, gfx: str, reason: str) -> None:
    card = SimpleNamespace(gcnArchName=f"{gfx}:sramecc+:xnack-")
    monkeypatch.setattr(torch.version, "hip", "7.2.53211")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setenv("AITER_JIT_DIR", "/nonexistent")
    assert reason in (packed.AITER.missing("cuda:0") or "")


@pytest.mark.parametrize(("capability", "names"), [((7, 5), ("float16",)), ((8, 0), ("bfloat16", "float16"))])
def test_old_cards_are_not_asked_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert paged.TRITON.dtypes("cuda", "cuda:0") == names


def test_kernels_that_aiter_compiles_do_not_stay(tmp_path: Path) -> None:
    code = "from verify.attention.providers import packed; packed.AITER.prepare(); import os; print(os.environ['AITER_JIT_DIR'])"
    environment = {"TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == tmp_path
    assert not list(tmp_path.iterdir())


def test_the_packages_reason_against_a_generation_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("vllm.vllm_flash_attn")
    package.fa_version_unsupported_reason = {2: None, 3: "FA3 is unavailable due to: no kernel image"}.get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    sys.modules["vllm"].__spec__ = __spec__
    monkeypatch.setitem(sys.modules, "vllm.vllm_flash_attn", package)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert packed.VLLM[0].missing("cuda:0") is None
    assert packed.VLLM[1].missing("cuda:0") == "FA3 is unavailable due to: no kernel image"


SEEN = {
    "sdpa_flash": "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64, 128, 128, 4, false, false, "
    "cutlass::bfloat16_t>, false, true, false, false, true, true, false, false>(pytorch_flash::Flash_fwd_params)",
    "sdpa_efficient": "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t, "
    "cutlass::arch::Sm80, true, 64, 64, 64, true, true>::Params)",
    "sdpa_cudnn": "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x128x64_4x1x1_kernel0_0",
    "vllm_flash_2": "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4, false, false, "
    "cutlass::bfloat16_t>, false, false, false, false, true, false, true, false>(flash::Flash_fwd_params)",
    "vllm_flash_3": "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<"
    "flash::CollectiveMainloopFwdSm90<2, cute::tuple<cute::C<1>, cute::C<1>, cute::C<1> > > > > >(...)",
    "vllm_triton": "kernel_unified_attention",
    "vllm_flash_4": "kernel_cutlass_kernel_vllmvllm_flash_attncuteflash_fwd_sm100FlashAttentionForwardSm100_object_at__tensorptrbf16",
}
"""Names in the profiler's format, by the owner of the kernel."""
SAME = {"flash_attn_2": "vllm_flash_2", "flash_attn_3": "vllm_flash_3", "flash_attn_4": "vllm_flash_4"}
MAPS = "7f0000000000-7f0000001000 r-xp 00000000 08:01 42 /srv/env/lib/python3.12/site-packages/vllm/vllm_flash_attn/{}.abi3.so\n"


def test_each_generation_is_recognised_by_the_name_of_its_kernel() -> None:
    rows = table("attention")["provider"]
    for name, row in rows.items():
        if "cuda" not in row["devices"] or name == "sdpa_math":
            continue
        plain_row = {key: value for key, value in row.items() if key != "library"}
        named = {
            seen for seen, kernel in SEEN.items() if check_kernel_trace(plain_row, "cuda", [kernel], "").status == "ok"
        }
        assert named == {SAME.get(name, name)}


def test_a_kernel_without_its_library_is_no_proof() -> None:
    row = table("attention")["provider"]["vllm_flash_3"]
    kernels = [SEEN["vllm_flash_3"]]
    assert check_kernel_trace(row, "cuda", kernels, MAPS.format("_vllm_fa3_C")).status == "ok"
    other = check_kernel_trace(row, "cuda", kernels, MAPS.format("_vllm_fa2_C"))
    assert (other.status, other.reason) == ("fail", "no library of vLLM's FlashAttention 3 is loaded (`_vllm_fa3_C`)")


def test_the_unfinished_generation_4_in_flash_attn_2_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "flash_attn" / "cute"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").write_text("import types\ntypes.missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_problem(packed.PACKAGES[2].row) == "no `flash-attn-4` in this environment"
    (tmp_path / "flash_attn_4-4.0.0.dist-info").mkdir()
    (tmp_path / "flash_attn_4-4.0.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: flash-attn-4\nVersion: 4.0.0\n"
    )
    assert str(import_problem(packed.PACKAGES[2].row)).startswith(
        "`flash_attn.cute` does not import: module 'types' has no"
    )


PLANNED = {"backend": "FLASH_ATTN", "flag": "FLASH_ATTN", "generation": 3}


@pytest.mark.parametrize(
    ("codes", "stack", "skipped"),
    [
        ({"80", "p80"}, {"attention": PLANNED}, True),
        ({"80", "p80"}, {}, True),
        ({"80", "90"}, {"attention": PLANNED}, False),
        ({"80", "p80"}, {"attention": {**PLANNED, "generation": 2}}, False),
        ({"80", "p80"}, {"attention": {**PLANNED, "generation": None}}, False),
        ({"100"}, {"attention": PLANNED}, False),
        (set(), {"attention": PLANNED}, False),
    ],
)
def test_kernels_that_the_driver_would_compile_are_checked_only_if_they_serve(
    codes: set[str], stack: dict[str, Any], *, skipped: bool
) -> None:
    row = packed.VLLM[0].row
    reason = left_to_driver(row, CheckContext(level="full", expect={"stack": stack}), codes, "9.0")
    assert (reason is not None) == skipped
    assert not skipped or str(reason).startswith("it has no code for 9.0, only PTX")
