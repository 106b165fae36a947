"""Real faults of a serving host: the commands that make and undo each, and the check that must find it.

A fault is made by shell commands that root runs on the host, after `PREAMBLE`. Faults of operators are in
`wrong_numbers.py`. The families are the rows of "What is found when" in docs/reference/checks.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.fleet.serving import PREFIX
from verify.records import Level, Status

PREAMBLE = f"""
set -eu
prefix={PREFIX} environment=$(readlink -f {PREFIX}/current) model={PREFIX}/models/builtin-1
site=$(echo $environment/lib/python3*/site-packages) kept=/root/kept
unit=firstlight-vllm.service dropins=/etc/systemd/system/firstlight-vllm.service.d
mkdir -p $kept
keep() {{ cp -p "$1" $kept/; }}
restore() {{ mv $kept/"$(basename "$1")" "$1"; }}
# Flips the lowest bit of a byte where it stands: what maps the file goes on with it.
flip() {{ python3 - "$1" "$2" <<'END'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1)[0]
    file.seek(-1, 1)
    file.write(bytes([byte ^ 1]))
END
}}
# Where the code of the first function whose name fits begins in a library.
code_of() {{
    at=$(nm -D --defined-only "$1" | awk -v name="$2" '$2 == "T" && $3 ~ name {{ print $1; exit }}')
    text=$(readelf -SW "$1" | sed -n 's/.* \\.text *PROGBITS *\\([0-9a-f]*\\) \\([0-9a-f]*\\) .*/0x\\1 + 0x\\2/p')
    echo $((0x$at - $text))
}}
# The extension module of vLLM that the engine has mapped.
extension() {{ cat /proc/[0-9]*/maps 2>/dev/null | grep -om 1 "/.*/vllm/_C[^/]*\\.so"; }}
"""


@dataclass(frozen=True)
class Fault:
    """One fault. `checks` must all end with `status` at `level` while it exists, and the reason of one of them must contain `names`."""

    name: str
    family: str
    checks: tuple[str, ...]
    make: str
    undo: str
    level: Level = "standard"
    names: str = ""
    status: Status = "fail"
    """A warning if the host's administrator may have made the change on purpose."""


def _dropped_in(name: str, check: str, *lines: str, names: str) -> Fault:
    """Return a fault: a drop-in for the unit, effective at its next start."""
    content = "\n".join(("[Service]", *lines))
    make = f"mkdir -p $dropins\ncat > $dropins/50-fault.conf <<END\n{content}\nEND\nsystemctl daemon-reload"
    return Fault(name, "unit", (check,), make, "rm -r $dropins\nsystemctl daemon-reload", names=names)


def _command(edit: str) -> tuple[str, str]:
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
_ZERO_LAYER = """python3 - $file <<'END'
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
    _dropped_in(
        "PYTHONPATH to a module that takes over",
        "serving.unit",
        "Environment=PYTHONPATH=/var/tmp/hijack",
        names="PYTHONPATH",
    ),
    _dropped_in(
        "a library loaded before all others",
        "serving.unit",
        "Environment=LD_PRELOAD=/lib/x86_64-linux-gnu/libdl.so.2",
        names="LD_PRELOAD",
    ),
    _dropped_in("another number type", "serving.unit", *_command("s/--dtype auto/--dtype float32/"), names="float32"),
    _dropped_in(
        "a shorter context", "serving.unit", *_command("s/--max-model-len [0-9]*/--max-model-len 512/"), names="512"
    ),
    _dropped_in(
        "a server that listens to everybody",
        "serving.unit",
        *_command("s/--host 127.0.0.1/--host 0.0.0.0/"),
        names="0.0.0.0",
    ),
    _dropped_in(
        "hardening taken away",
        "serving.unit",
        "ProtectSystem=no",
        "NoNewPrivileges=no",
        "CapabilityBoundingSet=~",
        names="ProtectSystem",
    ),
    _dropped_in("fewer open files", "serving.unit", "LimitNOFILE=1024", names="1024"),
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
    _file("a layer of zeros", "$model/model.safetensors", _ZERO_LAYER, "serving.model", family="model"),
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

_RUN_OTHER = "\n".join(
    (
        "mkdir -p $dropins",
        "cat > $dropins/20-model.conf <<END",
        "[Service]",
        *_command("s,[^ ]*/models/[^ ]*,/srv/other,"),
        "END",
    )
)
_OTHER_MODEL = f"""cp -r $model /srv/other
file=/srv/other/model.safetensors
{_ZERO_LAYER}
{_RUN_OTHER}"""

# The middleware that protects all routes does not start without a key, so both are removed together.
_NO_KEY = "\n".join(
    (
        "mkdir -p $dropins",
        "cat > $dropins/30-key.conf <<END",
        "[Service]",
        "UnsetEnvironment=VLLM_API_KEY",
        *_command("s/--middleware [^ ]*//"),
        "END",
    )
)

_WEIGHED_DOWN = """import builtins, os, sys, time
load = builtins.__import__
def change(module, name, changed):
    kind = getattr(sys.modules.get(module), name, None)
    if kind and not hasattr(kind, "weighed"):
        changed(kind)
        kind.weighed = True
def pause(kind):
    step = kind.step
    kind.step = lambda self: (time.sleep(0.35), step(self))[1]
def leak(kind):
    begin = kind.__init__
    kind.__init__ = lambda self, *given, **named: (os.dup(2), begin(self, *given, **named))[1]
def later(*given, **named):
    found = load(*given, **named)
    change("vllm.v1.engine.core", "EngineCore", pause)
    for kind in ("h11", "httptools"):
        change(f"uvicorn.protocols.http.{kind}_impl", "RequestResponseCycle", leak)
    return found
builtins.__import__ = later
"""

RUNNING = (
    Fault(
        "a module on PYTHONPATH in the server",
        "unit",
        ("libraries.injected",),
        f"mkdir -p $dropins /srv/hijack\ncat > /srv/hijack/sitecustomize.py <<'END'\n{_WEIGHED_DOWN}END\n"
        "printf '[Service]\\nEnvironment=PYTHONPATH=/srv/hijack\\n' > $dropins/10-path.conf",
        "rm -r /srv/hijack",
        names="PYTHONPATH",
    ),
    Fault("another model under the right name", "model", ("serving.answer",), _OTHER_MODEL, "rm -r /srv/other"),
    Fault("0.35 s at each step of the engine", "pace", ("serving.pace",), "true", "true", names="between tokens"),
    Fault("a descriptor left by each request", "pace", ("serving.pace",), "true", "true", names="descriptors stayed"),
    Fault("a server that asks for no API key", "access", ("serving.access",), _NO_KEY, "true", names="/v1"),
)
"""Faults that take effect when the service starts again; `undo` removes files outside the installation.

The module on PYTHONPATH is what pauses the engine and leaves descriptors.
"""

_EACH = "for pid in $(pgrep -u firstlight); do"

TREATED = (
    Fault(
        "a scheduling class that computes only when nothing else does",
        "pace",
        ("serving.process",),
        f"{_EACH} chrt --all-tasks --idle --pid 0 $pid; done",
        f"{_EACH} chrt --all-tasks --other --pid 0 $pid; done",
        names="scheduling policy 5 instead of 0",
    ),
    Fault(
        "one processor of many",
        "pace",
        ("serving.process",),
        f"{_EACH} taskset --all-tasks --cpu-list --pid 0 $pid >&2; done",
        f"{_EACH} taskset --all-tasks --cpu-list --pid $(taskset -cp 1 | sed 's/.*: //') $pid >&2; done",
        names="processors 0 instead of",
    ),
    Fault(
        "first to end when memory is short",
        "later",
        ("serving.process",),
        f"{_EACH} echo 900 > /proc/$pid/oom_score_adj; done",
        f"{_EACH} cat /proc/1/oom_score_adj > /proc/$pid/oom_score_adj; done",
        names="OOM score adjustment 900 instead of",
    ),
)
"""What the kernel is told about the running processes."""

STOPPED = Fault(
    "a service that somebody stopped",
    "service",
    ("serving.unit",),
    "systemctl stop $unit",
    "systemctl start $unit",
    names="should be running",
)

FROZEN = Fault(
    "an engine that does nothing any more",
    "service",
    ("serving.answer",),
    "pkill -STOP -u firstlight",
    "pkill -CONT -u firstlight",
)

_CANNED = """
import http.server, json, sys
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"object": "list", "data": [{"id": "builtin-1", "object": "model"}]})
    def do_POST(self):
        self.reply({"choices": [{"text": "yes", "index": 0, "finish_reason": "stop", "token_ids": [1]}]})
    def reply(self, content):
        known = self.headers.get("Authorization") or self.path == "/health"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())
http.server.HTTPServer(("127.0.0.1", 8000), Answers).serve_forever()
"""


def _hidden(name: str, family: str, check: str, make: str, undo: str, *, names: str, status: Status = "warn") -> Fault:
    """Return a fault outside what serves now, which an administrator may have made on purpose unless `status` says otherwise."""
    return Fault(name, family, (check,), make, undo, names=names, status=status)


_RELAY = """import socket, threading
server = socket.create_server(("0.0.0.0", 9000))
while True:
    client, _ = server.accept()
    there = socket.create_connection(("127.0.0.1", 8000))
    threading.Thread(target=lambda: there.sendall(client.recv(65536))).start()
"""

EXPOSED = (
    _hidden(
        "a copy of the key file that everybody may read",
        "exposure",
        "installed.files",
        "install -m 644 $prefix/etc/service.env /var/tmp/service.env.bak",
        "rm /var/tmp/service.env.bak",
        names="service.env.bak",
        status="fail",
    ),
    _hidden(
        "a relay on every address",
        "exposure",
        "serving.relays",
        f"cat > /srv/relay.py <<'END'\n{_RELAY}END\nsystemd-run --quiet --unit=relay python3 /srv/relay.py\n"
        "until ss -Hltn | grep -q :9000; do sleep 0.2; done",
        "systemctl stop relay\nrm /srv/relay.py",
        names="port 9000",
    ),
    _hidden(
        "a package that everybody may change",
        "exposure",
        "installed.files",
        "chmod 777 $site/vllm",
        "chmod 755 $site/vllm",
        names="site-packages/vllm",
        status="fail",
    ),
    _hidden(
        "a program that nobody installed, which root runs before each start",
        "exposure",
        "installed.files",
        "file=$prefix/bin/preflight.pyz\nkeep $file\ncp -p $prefix/bin/ready.pyz $file",
        "file=$prefix/bin/preflight.pyz\nrestore $file",
        names="preflight.pyz",
        status="fail",
    ),
    _hidden(
        "sudo rights of the service's account",
        "exposure",
        "serving.account",
        "echo 'firstlight ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/fault\nchmod 440 /etc/sudoers.d/fault",
        "rm /etc/sudoers.d/fault",
        names="NOPASSWD",
        status="fail",
    ),
    _hidden(
        "a login shell of the service's account",
        "exposure",
        "serving.account",
        "usermod -s /bin/bash firstlight",
        "usermod -s /usr/sbin/nologin firstlight",
        names="/bin/bash",
        status="fail",
    ),
)
"""What lets others read, change or reach what serves, or the service do more."""

_ALL_SERVICES = "/etc/systemd/system/service.d"

LATER = (
    _hidden(
        "a drop-in for all services that ends them after a time",
        "later",
        "serving.unit",
        f"mkdir {_ALL_SERVICES}\nprintf '[Service]\\nRuntimeMaxSec=12h\\n' > {_ALL_SERVICES}/50-fault.conf\nsystemctl daemon-reload",
        f"rm -r {_ALL_SERVICES}\nsystemctl daemon-reload",
        names="RuntimeMaxSec",
        status="fail",
    ),
    _hidden(
        "a unit that conflicts",
        "later",
        "serving.schedule",
        "printf '[Unit]\\nConflicts=firstlight-vllm.service\\n[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n'"
        " > /etc/systemd/system/burn-in.service\nsystemctl enable --quiet burn-in.service",
        "systemctl disable --quiet burn-in.service\nrm /etc/systemd/system/burn-in.service\nsystemctl daemon-reload",
        names="burn-in.service",
    ),
    _hidden(
        "a timer that stops it",
        "later",
        "serving.schedule",
        "systemd-run --quiet --on-active=6h --unit=nightly systemctl stop firstlight-vllm",
        "systemctl stop nightly.timer",
        names="nightly.timer",
    ),
    _hidden(
        "a boot into a target without services",
        "later",
        "serving.schedule",
        "systemctl --quiet set-default rescue.target",
        "systemctl --quiet set-default graphical.target",
        names="rescue.target",
        status="fail",
    ),
)
"""What stops the service later, or keeps the next boot from starting it."""

NEXT_START = (
    _hidden(
        "a variable of the manager that changes which libraries are found",
        "next start",
        "serving.start",
        "systemctl set-environment LD_LIBRARY_PATH=/srv/lib",
        "systemctl unset-environment LD_LIBRARY_PATH",
        names="LD_LIBRARY_PATH=/srv/lib",
        status="fail",
    ),
    _hidden(
        "a proxy of the manager",
        "next start",
        "serving.start",
        "systemctl set-environment https_proxy=http://192.0.2.1:3128",
        "systemctl unset-environment https_proxy",
        names="https_proxy",
    ),
    _hidden(
        "a cache that belongs to root",
        "next start",
        "serving.start",
        "chown root: $prefix/cache",
        "chown firstlight: $prefix/cache",
        names="/cache belongs to user 0",
        status="fail",
    ),
    _hidden(
        "a library of the system that is gone",
        "next start",
        "serving.start",
        "mv /lib/x86_64-linux-gnu/libnuma.so.1 $kept/",
        "mv $kept/libnuma.so.1 /lib/x86_64-linux-gnu/",
        names="libnuma.so.1",
        status="fail",
    ),
    _hidden(
        "a foreign library in the loader's folders",
        "next start",
        "serving.start",
        "mkdir -p /srv/lib\ncp /lib/x86_64-linux-gnu/libnuma.so.1 /srv/lib/\necho /srv/lib > /etc/ld.so.conf.d/00-fault.conf\nldconfig",
        "rm -r /srv/lib /etc/ld.so.conf.d/00-fault.conf\nldconfig",
        names="/srv/lib/libnuma.so.1",
    ),
    _hidden(
        "a localhost that is another host",
        "next start",
        "serving.start",
        "cp /etc/hosts $kept/\nsed -i 's/^127.0.0.1 localhost/192.0.2.1 localhost/' /etc/hosts",
        "cat $kept/hosts > /etc/hosts",
        names="localhost is 192.0.2.1",
        status="fail",
    ),
    _hidden(
        "lines of the variables that end as on Windows",
        "next start",
        "serving.unit",
        "file=$prefix/etc/service.env\nkeep $file\nsed -i 's/$/\\r/' $file",
        "file=$prefix/etc/service.env\nrestore $file",
        names="carriage returns",
        status="fail",
    ),
)
"""What the next start would meet."""

INSTEAD = (
    Fault(
        "another process on the port",
        "service",
        ("serving.process",),
        "systemd-run --quiet --unit=intruder python3 -m http.server --bind 127.0.0.1 8000",
        "systemctl stop intruder",
        names="http.server",
    ),
    Fault(
        "canned answers instead of an engine",
        "service",
        ("serving.process",),
        f"cat > /srv/canned.py <<'END'{_CANNED}END\nsystemd-run --quiet --unit=intruder python3 /srv/canned.py",
        "systemctl stop intruder\nrm /srv/canned.py",
        names="canned.py",
    ),
)
"""Faults in which another process answers instead of the service, which is stopped meanwhile."""

ALL = (
    *UNIT,
    *SECRETS,
    *MODEL,
    *FILES,
    *INJECTED,
    *RUNNING,
    *TREATED,
    FROZEN,
    STOPPED,
    *INSTEAD,
    *EXPOSED,
    *LATER,
    *NEXT_START,
)
