"""attention.sdpa_cudnn: cuDNN's kernels, by way of torch."""

from __future__ import annotations

from verify.judged_attention import check
from verify.providers.sdpa import CUDNN

CHECK = check(CUDNN, level="standard")
