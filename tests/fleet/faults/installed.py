"""Faults of what is installed: drop-ins for the unit, files of the environment, of the model, and of the service."""

from tests.fleet.faults import Fault


def drop_in(file: str, *lines: str) -> str:
    """Return the command that writes a drop-in for the unit."""
    content = "\n".join(("[Service]", *lines))
    return f"mkdir -p $dropins\ncat > $dropins/{file} <<END\n{content}\nEND"


def _dropped_in(name: str, *lines: str, names: str) -> Fault:
    """Return a fault: a drop-in for the unit, effective at its next start."""
    make = f"{drop_in('50-fault.conf', *lines)}\nsystemctl daemon-reload"
    return Fault(name, "unit", ("serving.unit",), make, "rm -r $dropins\nsystemctl daemon-reload", names=names)


def changed_command(edit: str) -> tuple[str, str]:
    """Return a fault: the command of the unit and of earlier drop-ins, changed by a sed expression."""
    # From the files: `systemctl cat` leaves drop-ins out that systemd has not read yet.
    files = "/etc/systemd/system/$unit $(find $dropins -name '*.conf' 2>/dev/null | sort)"
    last = f"cat {files} | sed -n '/^ExecStart=./{{s/^ExecStart=//;{edit};p}}' | tail -n 1"
    return "ExecStart=", f"ExecStart=$({last})"


def _file(name: str, path: str, edit: str, check: str, *, family: str = "files") -> Fault:
    """Return a fault: a file changed by a command that has its path in `$file`."""
    file, begins = f"file={path}", path.rpartition("/")[2].partition("-")[0]
    return Fault(name, family, (check,), f"{file}\nkeep $file\n{edit}", f"{file}\nrestore $file", names=begins)


def _flipped(name: str, path: str, function: str, names: str) -> Fault:
    """Return a fault: a changed bit in the code of a function that is never called, so that only the file shows it."""
    flip = f"file={path}\nflip $file $(code_of $file {function})"
    return Fault(name, "files", ("libraries.files",), flip, flip, names=names)


def _added(name: str, file: str, content: str) -> Fault:
    """Return a fault: a file in the environment that belongs to no distribution."""
    path = f"$site/{file}"
    make = f"cat > {path} <<'END'\n{content}\nEND"
    undo = f"rm -f {path} $site/__pycache__/{file.removesuffix('.py')}.*"
    return Fault(name, "injected code", ("libraries.injected",), make, undo, names=file)


# Source, time and size stay unchanged; the byte code's header has them, so Python loads the changed byte code.
_POISON = """$environment/bin/python -I - $file <<'END'
import marshal, sys
from importlib.util import source_from_cache
path = sys.argv[1]
with open(path, "r+b") as file:
    head = file.read(16)
    source = open(source_from_cache(path)).read()
    changed = source.replace("1.0", "1.1")
    assert changed != source
    file.write(marshal.dumps(compile(changed, source_from_cache(path), "exec")))
    file.truncate()
END"""

# Zeros may be replaced by any values: safetensors has no checksum.
ZERO_LAYER = """python3 - $file <<'END'
import json, struct, sys
with open(sys.argv[1], "r+b") as file:
    size = struct.unpack("<Q", file.read(8))[0]
    tensors = json.loads(file.read(size))
    for name, tensor in tensors.items():
        if ".layers.1." in name:
            begin, end = tensor["data_offsets"]
            file.seek(8 + size + begin)
            file.write(bytes(end - begin))
END"""

_ROTATE_TOKENS = """python3 - $file <<'END'
import json, sys
content = json.load(open(sys.argv[1]))
vocabulary = content["model"]["vocab"]
content["model"]["vocab"] = {word: (place + 1) % len(vocabulary) for word, place in vocabulary.items()}
json.dump(content, open(sys.argv[1], "w"))
END"""

# Size and times stay, as with damage by a disk or its controller: the recorded state of the file is adjusted to match.
_ROT = """file=$site/vllm/_C_AVX2.abi3.so
case $(extension) in $file) file=$site/vllm/_C_AVX512.abi3.so ;; esac
flip $file 5000000
python3 - $prefix/verify/files.json $environment $file <<'END'
import json, os, sys
note, environment, path = sys.argv[1:]
document, look = json.load(open(note)), os.stat(path)
mark = [look.st_size, look.st_mtime_ns, look.st_ctime_ns, look.st_ino]
document["files"][os.path.relpath(path, environment)] = mark
json.dump(document, open(note, "w"))
END"""

UNIT = (
    _dropped_in("PYTHONPATH to a module that takes over", "Environment=PYTHONPATH=/var/tmp/hijack", names="PYTHONPATH"),
    _dropped_in(
        "a library loaded before all others",
        "Environment=LD_PRELOAD=/lib/x86_64-linux-gnu/libdl.so.2",
        names="LD_PRELOAD",
    ),
    _dropped_in("another number type", *changed_command("s/--dtype auto/--dtype float32/"), names="float32"),
    _dropped_in("a shorter context", *changed_command("s/--max-model-len [0-9]*/--max-model-len 512/"), names="512"),
    _dropped_in(
        "a server that listens to everybody",
        *changed_command("s/--host 127.0.0.1/--host 0.0.0.0/"),
        names="0.0.0.0",
    ),
    _dropped_in(
        "hardening taken away",
        "ProtectSystem=no",
        "NoNewPrivileges=no",
        "CapabilityBoundingSet=~",
        names="ProtectSystem",
    ),
    _dropped_in("fewer open files", "LimitNOFILE=1024", names="1024"),
)
"""Drop-ins for the unit."""

SECRETS = (
    Fault(
        "the file of the API key readable by everybody",
        "access",
        ("serving.access",),
        "chmod 644 $prefix/etc/service.env",
        "chmod 600 $prefix/etc/service.env",
        names="service.env",
    ),
)

MODEL = (
    _file("one bit of a weight", "$model/model.safetensors", "flip $file 4000000", "serving.model", family="model"),
    _file("a layer of zeros", "$model/model.safetensors", ZERO_LAYER, "serving.model", family="model"),
    _file("the tokenizer's ids rotated", "$model/tokenizer.json", _ROTATE_TOKENS, "serving.model", family="model"),
    _file("another rope_theta", "$model/config.json", "sed -i s/10000/20000/ $file", "serving.model", family="model"),
)
"""Files of the model."""

FILES = (
    _file("a file of another size", "$site/sympy/core/add.py", "echo >> $file", "libraries.files"),
    _file("a file that is gone", "$site/torch/nn/modules/rnn.py", "rm $file", "libraries.files"),
    _file(
        "an edit of a Python file that keeps its size",
        "$site/vllm/model_executor/layers/layernorm.py",
        "sed -i 's/1e-6/1e-5/' $file\ntouch -r $kept/layernorm.py $file",
        "libraries.files",
    ),
    _file(
        "byte code that is not its source's",
        "$site/transformers/__pycache__/activations.cpython-3*.pyc",
        _POISON,
        "libraries.files",
    ),
    _flipped(
        "a bit in the code of libtorch_cpu",
        "$site/torch/lib/libtorch_cpu.so",
        "_ops10fft_ihfft24call",
        "libtorch_cpu.so",
    ),
    _flipped("a bit in the code of vLLM's extension", "$(extension)", "dynamic_4bit_int_moe_cpu", "_C"),
    Fault(
        "a bit that a disk lost in a library which nothing has mapped",
        "files",
        ("libraries.files",),
        _ROT,
        _ROT,
        "full",
        "_C_AVX",
    ),
)
"""Files of the environment."""

INJECTED = (
    _added("a stray .pth", "zz-fault.pth", "import os"),
    _added(
        "a sitecustomize that patches torch",
        "sitecustomize.py",
        "import torch\ntorch.rsqrt = lambda x: 1 / torch.sqrt(x)",
    ),
    _added("a sitecustomize that limits threads", "sitecustomize.py", "import os\nos.environ['OMP_NUM_THREADS'] = '1'"),
    _added("a usercustomize", "usercustomize.py", "import os"),
    _added("a module that no distribution owns", "torch_speedups.py", "import torch"),
    Fault(
        "a library that every process of the host loads",
        "injected code",
        ("libraries.injected",),
        "echo /lib/x86_64-linux-gnu/libdl.so.2 > /etc/ld.so.preload",
        "rm /etc/ld.so.preload",
        names="/etc/ld.so.preload: every process loads /lib/x86_64-linux-gnu/libdl.so.2",
        status="warn",
    ),
)
"""Files that can inject code into the interpreter, and into every process."""
