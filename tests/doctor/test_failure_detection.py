"""Logs without a failure have no finding: the files in `healthy/`, and lines that only look like a cause."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provision.pipeline.failure_evidence import causes_of
from verify.doctor.catalog import load_causes
from verify.doctor.cli import READ, main
from verify.doctor.engine import GUESSED, NOTHING_FAILED, diagnose_texts
from verify.doctor.failure_detection import Severity, assess, severity_of

FOLDER = Path(__file__).parent / "healthy"
LOGS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.log"))}
BROKEN = "ImportError: libtorch_cuda.so: undefined symbol: ncclCommWindowRegister"


def found(text: str) -> list[tuple[str, float]]:
    return [(finding.cause.id, finding.confidence) for finding in diagnose_texts({"log": text}).findings]


@pytest.mark.parametrize("name", LOGS)
def test_a_log_without_a_failure_has_no_finding(name: str) -> None:
    assert found(LOGS[name]) == []


@pytest.mark.parametrize("name", [name for name in LOGS if name.startswith(("df-", "dmesg-", "nvidia-smi-"))])
def test_a_sound_state_of_a_host_explains_no_failure_of_its_service(name: str) -> None:
    unknown = 'Traceback (most recent call last):\n  File "/opt/env/vllm/v1/engine/core.py", line 7, in run\nRuntimeError: lost\n'
    diagnosis = diagnose_texts({"kernel": LOGS[name], "service_journal": unknown})
    assert [finding.cause.id for finding in diagnosis.findings] == []


@pytest.mark.parametrize("name", LOGS)
def test_a_failure_at_the_end_is_found(name: str) -> None:
    assert found(f"{LOGS[name]}{BROKEN}\n")[0][0] == "nccl-duplicate"


def test_the_advice_states_that_nothing_failed() -> None:
    diagnosis = diagnose_texts({"log": LOGS["vllm-0.17.1"]})
    assert diagnosis.look_next[0] == NOTHING_FAILED


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("error 802: row not found in table users", id="a number of another program"),
        pytest.param(
            "2026/03/02 10:04:40 [error] 31#31: *999 connect() failed (111: Connection refused) while connecting to upstream",
            id="nginx",
        ),
        pytest.param(
            'Exception in thread "writer-2" java.lang.OutOfMemoryError: Java heap space\n\tat com.example.Writer.flush(Writer.java:88)',
            id="a Java heap",
        ),
        pytest.param("fatal: not a git repository (or any of the parent directories): .git", id="git"),
        pytest.param("ORA-00804: table or view does not exist\nERROR 804 (HY000): Can't open file", id="a database"),
        pytest.param(
            'django.db.utils.OperationalError: connection to server at "127.0.0.1", port 5432 failed: Connection refused',
            id="a loopback of another program",
        ),
        pytest.param("curl: (22) The requested URL returned error: 999", id="curl"),
    ],
)
def test_a_failure_of_other_software_has_no_finding(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes_have_no_finding(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise"
    noise = random.Random(seed)
    path.write_bytes(noise.randbytes(20_000) + b" MOK Error 802 " + noise.randbytes(20_000))
    assert main(["--json", str(path)]) == READ
    assert json.loads(capsys.readouterr().out)[0]["findings"] == []


@pytest.mark.parametrize(
    "line",
    [
        "NCCL_SOCKET_IFNAME=docker0",
        "(Worker pid=9) INFO 11-20 08:02:01 [envs.py:12] CUDA_VISIBLE_DEVICES=1,0 CUDA_DEVICE_ORDER=PCI_BUS_ID",
        "node7:91:150 [0] NCCL INFO NET/Socket : Using [0]docker0:172.17.0.1<0>",
        "node7:91:150 [0] NCCL INFO NCCL_SOCKET_IFNAME set by environment to lo",
    ],
)
def test_a_line_of_configuration_has_no_finding(line: str) -> None:
    assert found(f"{LOGS['vllm-0.11.2-rocm']}{line}\n") == []


HUNG_PROBE = "the host did not end `sh` within 30 s\nit was stopped, and what it did is lost"


def test_a_guess_is_not_in_a_summary() -> None:
    asked = (
        "why do the ranks of both cards wait for data that never comes, does the hypervisor send these writes astray?"
    )
    assert diagnose_texts({"note": asked}).findings[0].why == GUESSED
    assert causes_of({"verify": asked}) == ()
    assert causes_of({"probe": HUNG_PROBE}) == ()


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("(EngineCore pid=7) ValueError: bad value", Severity.FAILURE),
        ("job.service: Main process exited, code=exited, status=1/FAILURE", Severity.FAILURE),
        ("ERROR 11-20 08:02:31 [core.py:80] worker died", Severity.FAILURE),
        ("node7:91:150 [0] NCCL WARN Call to ibv_reg_mr failed", Severity.FAILURE),
        ("the cards do not see each other", Severity.COMPLAINT),
        ("WARNING 11-20 08:02:31 [core.py:80] falling back", Severity.WARNING),
        ("(Worker pid=9) INFO 11-20 08:02:31 [core.py:80] no error in 0 retries", Severity.INFO),
        ("node7:91:150 [0] NCCL INFO NET/IB : No device found.", Severity.INFO),
        ('time=2026-03-02 level=info msg="failed=0"', Severity.INFO),
        ("gpu-01 : ok=41 changed=0 unreachable=0 failed=0", Severity.NONE),
        ("    Remapping Failure Occurred        : No", Severity.NONE),
        ("", Severity.NONE),
    ],
)  # fmt: skip
def test_severity_of_a_line(line: str, severity: Severity) -> None:
    assert severity_of(line) is severity


RUN = [f"INFO 11-20 08:02:{second:02d} [loader.py:40] loaded shard {second}" for second in range(20)]


@pytest.mark.parametrize(
    ("lines", "failed"),
    [
        pytest.param(RUN, False, id="only info"),
        pytest.param([*RUN, "WARNING 11-20 08:02:31 [core.py:80] no kernel, falling back"], True, id="a warning at the end"),
        pytest.param(
            [*RUN, "WARNING 11-20 08:02:31 [core.py:80] falling back", "INFO:     Application startup complete."],
            False,
            id="a warning before success",
        ),
        pytest.param(
            ["Traceback (most recent call last):", *RUN, "INFO:     Application startup complete."],
            True,
            id="a traceback before success",
        ),
        pytest.param(["ncclShmOpen"], True, id="a quotation"),
        pytest.param([], False, id="nothing"),
    ],
)  # fmt: skip
def test_a_text_reports_a_failure(lines: list[str], failed: bool) -> None:
    assert assess(lines).failed is failed


SAMPLES = [sample.text for cause in load_causes() for sample in cause.samples]
PIECES = st.one_of(
    st.text(max_size=80),
    st.sampled_from([line for text in (*LOGS.values(), *SAMPLES) for line in text.splitlines()]),
    st.binary(max_size=60).map(lambda piece: piece.decode("latin-1")),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=40), st.sampled_from(["\n", "\r\n", "\r", ""]))
@example(["x" * 400_000], "\n")
def test_any_log_gives_a_documented_exit_code(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "log"
    path.write_text(end.join(lines), encoding="utf-8", errors="replace", newline="")
    findings = diagnose_texts({"log": path.read_text(encoding="utf-8", errors="replace")}).findings
    assert all(0.3 <= finding.confidence < 1 for finding in findings)
    assert main([str(path)]) == READ
