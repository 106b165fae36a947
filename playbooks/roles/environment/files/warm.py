"""Compiles what vLLM's processes import, so that Python keeps the byte code beside the sources.

The service cannot write there: its server, engine and worker would each compile some 3,500 modules at every start. Nothing is imported here:
the imports are read off the compiled modules, from those that vLLM itself looks up by name. Other models, tools and what is imported within
functions cost a start nothing, or little, and are left out.

Byte code that is there already was not compiled here, and is removed. At the end sys.prefix/bytecode.txt lists what there is: the CRC-32,
the size in bytes and the path below sys.prefix of each file. Nothing else writes byte code into an environment from then on.
"""

import dis
import os
import sys
import sysconfig
import zlib
from importlib.machinery import SourceFileLoader
from importlib.util import resolve_name

ROOTS = (
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.gpu_worker",
    "vllm.platforms.cpu",
    "vllm.platforms.cuda",
    "vllm.platforms.rocm",
    "vllm.model_executor.models.llama",
)
FIRST = ("torch", "transformers")
"""Who checks the environment imports these as soon as it is there."""


class Modules:
    """The modules of an environment that were met, and those whose imports are still to be read."""

    def __init__(self, folders):
        self._folders = folders
        self._met = set()
        self._first, self._next = [], []

    def meet(self, name):
        """Note a module and the packages around it; a name that is no module here is none of ours."""
        if name in self._met:
            return
        self._met.add(name)
        parent = name.rpartition(".")[0]
        if parent:
            self.meet(parent)
        for folder in self._folders:
            base = os.path.join(folder, *name.split("."))
            for path, package in ((os.path.join(base, "__init__.py"), name), (base + ".py", parent)):
                if os.path.isfile(path):
                    (self._first if name.startswith(FIRST) else self._next).append((name, path, package))
                    return

    def compile_all(self):
        """Compile each module that has no byte code yet, and meet what it imports."""
        while self._first or self._next:
            name, path, package = (self._first or self._next).pop()
            try:
                code = SourceFileLoader(name, path).get_code(name)
            except (OSError, SyntaxError, ValueError):
                continue
            for found in imports(code, package):
                self.meet(found)


def imports(code, package):
    """Absolute names that a module imports as it is imported; each name that is taken from a package may be a module too."""
    level, names, typing, hidden_until = 0, None, False, 0
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
            level, names = names, step.argval
        elif step.opname == "IMPORT_NAME" and step.offset >= hidden_until:
            base = resolve_name("." * level + step.argval, package) if level else step.argval
            yield base
            for name in names or ():
                yield f"{base}.{name}"
        elif step.opname in ("LOAD_NAME", "LOAD_ATTR"):
            typing = step.argval == "TYPE_CHECKING"
        elif "IF_FALSE" in step.opname and typing:
            hidden_until, typing = step.argval, False


def byte_code(home):
    """The files of byte code below a folder."""
    for folder, _folders, names in os.walk(home):
        yield from (os.path.join(folder, name) for name in names if name.endswith(".pyc"))


def keep_list(home):
    """Write down what byte code there is, whole or not at all."""
    lines = []
    for path in sorted(byte_code(home)):
        with open(path, "rb") as file:
            content = file.read()
        lines.append(f"{zlib.crc32(content):08x} {len(content)} {path[len(home) + 1 :]}\n")
    beside = os.path.join(home, "bytecode.txt.new")
    with open(beside, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(lines)
    os.replace(beside, os.path.join(home, "bytecode.txt"))


if __name__ == "__main__":
    home = os.path.realpath(sys.prefix)
    for stale in list(byte_code(home)):
        os.unlink(stale)
    paths = sysconfig.get_paths()
    modules = Modules(sorted({paths["purelib"], paths["platlib"]}))
    for root in (*FIRST, *ROOTS):
        modules.meet(root)
    modules.compile_all()
    keep_list(home)
