"""Faults of what runs: the server and its engine, how the kernel treats them, and what answers in their place."""

from tests.fleet.faults import Fault, treated
from tests.fleet.faults.installed import ZERO_LAYER, changed_command, drop_in

_RUN_OTHER = drop_in("20-model.conf", *changed_command("s,[^ ]*/models/[^ ]*,/srv/other,"))
_OTHER_MODEL = f"""cp -r $model /srv/other
file=/srv/other/model.safetensors
{ZERO_LAYER}
{_RUN_OTHER}"""

# The middleware that protects all routes does not start without a key, so both are removed together.
_NO_KEY = drop_in("30-key.conf", "UnsetEnvironment=VLLM_API_KEY", *changed_command("s/--middleware [^ ]*//"))

_WEIGHED_DOWN = """import builtins, os, sys, time
load = builtins.__import__
def change(module, name, changed):
    kind = getattr(sys.modules.get(module), name, None)
    if kind and not hasattr(kind, "weighed"):
        changed(kind)
        kind.weighed = True
def pause(kind):
    step = kind.step
    kind.step = lambda self: (time.sleep(0.2), step(self))[1]
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
    Fault("0.2 s at each step of the engine", "pace", ("serving.pace",), "true", "true", names="between tokens"),
    Fault("a descriptor left by each request", "pace", ("serving.pace",), "true", "true", names="descriptors stayed"),
    Fault("a server that asks for no API key", "access", ("serving.access",), _NO_KEY, "true", names="/v1"),
)
"""Faults that take effect when the service starts again; `undo` removes files outside the installation.

The module on PYTHONPATH is what pauses the engine and leaves descriptors.
"""

TREATED = (
    treated(
        "a scheduling class that computes only when nothing else does",
        "chrt --all-tasks --idle --pid 0 $pid",
        "chrt --all-tasks --other --pid 0 $pid",
        names="scheduling policy 5 instead of 0",
    ),
    treated(
        "one processor of many",
        "taskset --all-tasks --cpu-list --pid 0 $pid >&2",
        "taskset --all-tasks --cpu-list --pid $(taskset -cp 1 | sed 's/.*: //') $pid >&2",
        names="processors 0 instead of",
    ),
    treated(
        "first to end when memory is short",
        "echo 900 > /proc/$pid/oom_score_adj",
        "cat /proc/1/oom_score_adj > /proc/$pid/oom_score_adj",
        names="OOM score adjustment 900 instead of",
        family="later",
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
