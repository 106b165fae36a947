"""Program for an environment with vLLM: prints which kernels its own code selects on GPUs that this machine does not have.

Its argument is a JSON list of cases: `capability` is the compute capability, `flashinfer` whether there is FlashInfer, `variables` are those
of the environment. It prints the selections as a list. Replaced are vLLM's questions to the hardware and for FlashInfer, nothing else.
Each case has a process of its own, which begins with what is imported already.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import pkgutil
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import vllm.platforms
from vllm.model_executor.kernels import linear
from vllm.model_executor.layers.fused_moe import experts
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig, FusedMoEParallelConfig, RoutingMethodType
from vllm.model_executor.layers.fused_moe.oracle import fp8, mxfp4, nvfp4, unquantized
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    kFp8Dynamic128Sym,
    kFp8DynamicTensorSym,
    kFp8Static128BlockSym,
    kFp8StaticTensorSym,
    kNvfp4Dynamic,
    kNvfp4Static,
)
from vllm.platforms.interface import DeviceCapability, PlatformEnum


def of_number(wanted: Any) -> tuple[int, ...]:
    return wanted if isinstance(wanted, tuple) else divmod(wanted, 10)


@dataclass
class Card:
    """What a GPU of a compute capability answers."""

    capability: tuple[int, ...]
    _enum = PlatformEnum.CUDA

    def is_cuda(self) -> bool:
        return True

    is_cuda_alike = is_cuda

    def supports_fp8(self) -> bool:
        return self.capability >= (8, 9)

    def support_deep_gemm(self) -> bool:
        return self.capability[0] in {10, 12} or self.capability == (9, 0)

    def is_cpu(self) -> bool:
        return False

    def get_device_capability(self, *_: int) -> DeviceCapability:
        return DeviceCapability(*self.capability)

    def has_device_capability(self, wanted: Any, *_: int) -> bool:
        return of_number(wanted) <= self.capability

    def is_device_capability(self, wanted: Any, *_: int) -> bool:
        return of_number(wanted) == self.capability

    def is_device_capability_family(self, wanted: Any, *_: int) -> bool:
        return of_number(wanted)[0] == self.capability[0]


def prepare(capability: str, *, flashinfer: bool) -> None:
    kind = type("CardPlatform", (Card, type(vllm.platforms.current_platform)), {})
    card = kind(tuple(map(int, capability.split("."))))
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm"):
            for word in vars(module).copy():
                if word == "current_platform":
                    setattr(module, word, card)
                elif word.startswith("has_flashinfer"):
                    setattr(module, word, lambda *_: flashinfer)
                elif word in {"cutlass_fp4_supported", "has_deep_gemm"}:
                    setattr(module, word, lambda *_: True)
    settings = SimpleNamespace(model_config=SimpleNamespace(quantization_config=None))
    mxfp4.get_current_vllm_config = lambda: settings
    linear._get_linear_backend = lambda **_: "auto"
    linear._resolve_backend_kernels = lambda possible, *_, **__: possible


def layer(activation: MoEActivation, **more: Any) -> FusedMoEConfig:
    """Return the experts of a small model on one GPU."""
    sizes = {"num_experts": 8, "num_local_experts": 8, "num_logical_experts": 8, "experts_per_token": 2}
    sizes |= {"hidden_dim": 2048, "intermediate_size": 768}
    parallel = FusedMoEParallelConfig.make_no_parallel()
    place = {"device": "cpu", "in_dtype": torch.bfloat16, "routing_method": RoutingMethodType.Renormalize}
    return FusedMoEConfig(**sizes, **place, activation=activation, moe_parallel_config=parallel, **more)


def select(case: dict[str, Any]) -> dict[str, str]:
    """Return the kernel of each kind of weights and layers."""
    os.environ.update(case["variables"])
    prepare(case["capability"], flashinfer=case["flashinfer"])
    usual = layer(MoEActivation.SILU)
    return {
        "nvfp4 experts": nvfp4.select_nvfp4_moe_backend(usual, kNvfp4Static, kNvfp4Dynamic)[0].value,
        "mxfp4 experts": mxfp4.select_mxfp4_moe_backend(layer(MoEActivation.SWIGLUOAI, has_bias=True))[0].value,
        "None experts": unquantized.select_unquantized_moe_backend(usual)[0].value,
        "fp8-block experts": fp8.select_fp8_moe_backend(usual, kFp8Static128BlockSym, kFp8Dynamic128Sym)[0].value,
        "fp8-static experts": fp8.select_fp8_moe_backend(usual, kFp8StaticTensorSym, kFp8StaticTensorSym)[0].value,
        "fp8-dynamic experts": fp8.select_fp8_moe_backend(usual, kFp8StaticTensorSym, kFp8DynamicTensorSym)[0].value,
        "nvfp4 linear": type(linear.init_nvfp4_linear_kernel()).__name__,
    }


for found in pkgutil.iter_modules(experts.__path__):
    importlib.import_module(f"{experts.__name__}.{found.name}")
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as processes:
    sys.stdout.write(json.dumps(processes.map(select, json.loads(sys.argv[1]), chunksize=1)))
