"""The phases of a start, read from logs in vLLM's own format with invented values."""

import json
import subprocess
import sys
import time
from pathlib import Path

from provision.phases.serve.onhost.ready.log import phases
from provision.phases.serve.tools import serve_tools

GPU = """\
preflight: start of /opt/firstlight/current/bin/vllm with pid 812
(APIServer pid=812) INFO 03-02 09:15:21 [api_utils.py:286] non-default args: {'port': 8000}
(APIServer pid=812) INFO 03-02 09:15:24 [model.py:733] Resolved architecture: LlamaForCausalLM
(EngineCore pid=900) INFO 03-02 09:15:37 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m'
(Worker_TP0 pid=951) INFO 03-02 09:16:02 [default_loader.py:501] Loading weights took 9.41 seconds
(Worker_TP1 pid=952) INFO 03-02 09:16:05 [default_loader.py:501] Loading weights took 12.03 seconds
(Worker_TP0 pid=951) INFO 03-02 09:16:03 [gpu_model_runner.py:5150] Model loading took 7.51 GiB memory and 10.662150 seconds
(Worker_TP0 pid=951) INFO 03-02 09:16:31 [monitor.py:53] torch.compile took 24.10 s in total
Capturing CUDA graphs (mixed prefill-decode, PIECEWISE): 100%|##########| 51/51 [00:03<00:00, 15.21it/s]
(Worker_TP0 pid=951) INFO 03-02 09:16:41 [gpu_model_runner.py:6582] Graph capturing finished in 8 secs, took 0.62 GiB
(EngineCore pid=900) INFO 03-02 09:16:42 [core.py:402] init engine (profile, create kv cache, warmup model) took 36.95 s
INFO:     Application startup complete.
""".splitlines()

OLDER = """\
INFO 03-02 09:15:40 [monitor.py:34] torch.compile takes 20.50 s in total
INFO 03-02 09:15:50 [core.py:133] Initializing a V1 LLM engine (v0.9.1) with config: model='/m'
""".splitlines()


def moment(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))


def test_each_phase_ends_with_its_last_line() -> None:
    assert phases(GPU, moment("2026-03-02 09:15:10")) == {
        "imports": 14.0,
        "engine": 27.0,
        "weights": 55.0,
        "compile": 81.0,
        "graphs": 91.0,
        "warm": 92.0,
    }


def test_texts_of_older_releases_are_read_and_missing_phases_are_omitted() -> None:
    assert phases(OLDER, moment("2026-03-02 09:15:30")) == {"compile": 10.0, "engine": 20.0}
    assert phases(["INFO:     Application startup complete.", ""], moment("2026-03-02 09:15:30")) == {}


def test_the_year_that_the_log_omits_is_that_of_the_start() -> None:
    line = "(EngineCore pid=9) INFO 02-29 00:00:20 [core.py:133] Initializing a V1 LLM engine (v0.32.0)"
    assert phases([line], moment("2028-02-28 23:59:50")) == {"engine": 30.0}


def test_a_phase_of_the_second_in_which_the_process_started_takes_no_time() -> None:
    line = "(EngineCore pid=9) INFO 03-02 09:15:04 [core.py:133] Initializing a V1 LLM engine (v0.32.0)"
    assert phases([line], moment("2026-03-02 09:15:05")) == {"engine": 0.0}


def test_lines_of_an_earlier_start_and_text_of_others_are_no_phases() -> None:
    assert phases(GPU, moment("2026-03-02 12:00:00")) == {}
    other_line = "user asked: INFO 03-02 09:15:37 [core.py:133] Initializing a V1 LLM engine"
    assert phases([other_line], moment("2026-03-02 09:15:10")) == {}


def test_the_table_on_a_host_needs_no_toml(tmp_path: Path) -> None:
    """Python reads TOML from 3.11 on, and environments may have an older one."""
    serve_tools(tmp_path)
    program = (
        "import sys; sys.modules['tomllib'] = None; sys.path.insert(0, 'ready.pyz')\n"
        "from ready.log import phases; import json\n"
        "print(json.dumps(phases(json.load(sys.stdin), float(sys.argv[1]))))"
    )
    began = moment("2026-03-02 09:15:10")
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, str(began)],
        cwd=tmp_path, input=json.dumps(GPU), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == phases(GPU, began)
