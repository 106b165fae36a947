"""Compiles what vLLM's processes import, so that Python keeps the byte code beside the sources.

The service cannot write there: its server, engine and worker would each compile some 2,000 modules at every start. torch's and transformers'
are kept by who imports them before: the built-in model, the checks. Nothing is imported here.
"""

import compileall
import importlib.util
import os

for package in ("vllm", "openai", "compressed_tensors", "opentelemetry", "networkx"):
    found = importlib.util.find_spec(package)
    for folder in (found.submodule_search_locations or []) if found else []:
        if os.path.isdir(folder):
            compileall.compile_dir(folder, quiet=2)
