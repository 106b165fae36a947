"""Wrong input gives a text with values, a hint and an exit code, never a traceback."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from provision import __version__
from provision.phases.plan.explain import WhyNotDocument
from tests.fit.models import LLAMA_70B, write_model
from tests.pipeline.command_lines import COMMAND, FAR, Ended, firstlight, inventory_of, run_all, variables
from tests.plan.cases import CASES
from tests.stage.site import Site

pytestmark = pytest.mark.slow

WRONG = [
    (("provision", "--limit", "gpu-9"), 2, "gpu-9"),
    (("provision", "--vllm", "v0.9"), 2, "--vllm"),
    (("provision", "--attention", "flush"), 2, "--attention"),
    (("plan", "--facts", "nothing.json"), 2, "nothing.json"),
    (("stop", "--limit", ""), 2, "the limit names no host"),
    (("stop", "--ask-become-pass"), 2, "no password could be read"),
    (("rollback", "--to", "latest"), 2, "`latest` is no digest of a release"),
    (("provision", "--max-fail", "5%"), 2, "needs `--batch`"),
    (("provision", "--batch", "2", "--dry-run"), 2, "`--dry-run` changes no host"),
    (("wheels", "build", "--torch", "2.11.0", "--arch", "9.0", "--cuda", "abc"), 2, "`--cuda abc`"),
    (("wheels", "build", "--torch", "2.11.0", "--arch", "9.0", "--python", "3"), 2, "`--python 3`"),
    (("bundle", "create", "-o", "/dev/null"), 2, "`/dev/null` cannot be written: it is a device"),
    (("verify", "--junit", "/proc/self/x/y.xml"), 64, "`/proc/self/x/y.xml` cannot be written"),
    (("doctor",), 2, "give either files or --limit"),
    (("doctor", "x.log", "--limit", "localhost"), 2, "give either files or --limit"),
    (("doctor", "x.log", "--apply"), 2, "--apply, --yes and -i are for --limit"),
    (("doctor", "--limit", "nobody"), 2, "nobody"),
    (("verify", "--list", "--skip", "gem"), 64, "no check or family is named `gem`"),
    (("verify", "--inject", "slw@kernels"), 64, "no fault is named `slw`"),
    (("verify", "gpu-1"), 64, "`gpu-1` is no command of verify"),
    (("verify", "compare"), 64, "two different back ends are compared"),
    (("verify", "compare", "--backend", "A", "--backend", "A"), 64, "two different back ends are compared"),
    (("verify", "--return", "--level", "quick"), 64, "after all checks of level full"),
    (("verify", "--return", "gpu-1", "--limit", "gpu-2"), 64, "hosts are named twice: `--limit gpu-2` and `gpu-1`"),
    (("drift", "--against", "gpu-9"), 2, "`--against gpu-9` is no host of this run"),
    (("provsion",), 2, "provsion"),
    (("provision", "--bundle", "x.bundle", "--refresh"), 2, "`--bundle` asks no network"),
    (("provision", "--bundle", "nowhere.bundle"), 1, "`nowhere.bundle` cannot be read"),
    (("bundle", "create"), 2, "--output"),
    (
        ("bundle", "create", "--what-if", "gpu=none", "-l", "a", "-o", "x.bundle"),
        2,
        "--limit selects hosts of an inventory",
    ),
    (("provision", "--trust", "key.pub"), 2, "--trust is the key of a bundle"),
    (("probe", "-i", ""), 2, "it is empty: give a file or a folder"),
    (("plan", "--what-if", "gpu=none", "-i", "x"), 2, "--inventory selects hosts of an inventory, and --what-if"),
    (("plan", "--facts", "x.json", "-l", "x"), 2, "--limit selects hosts of an inventory, and --facts uses no"),
    (("plan", "--what-if", "os=windows-11"), 2, "`windows` is not a known Linux distribution"),
    (("plan", "--what-if", "gpu=GB200x4 arch=x86_64"), 2, "`arch=x86_64` contradicts GB200"),
    (("plan", "--what-if", "GPU=H100x8"), 2, "did you mean `gpu`?"),
    (
        ("bundle", "create", "--what-if", "gpu=H100x1 glibc=none", "-o", "x.bundle"),
        4,
        "no combination of versions fits",
    ),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Ended]:
    return run_all([arguments for arguments, _, _ in WRONG], tmp_path_factory.mktemp("lines"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"), WRONG, ids=lambda value: "-".join(value) if isinstance(value, tuple) else None
)
def test_wrong_input_is_reported(
    arguments: tuple[str, ...], code: int, message: str, ended: dict[tuple[str, ...], Ended]
) -> None:
    done = ended[arguments]
    assert done.code == code, done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_plan_without_an_answering_host_is_still_a_document(tmp_path: Path) -> None:
    inventory_of(tmp_path, far=FAR)
    done = firstlight("plan", "-i", "hosts.yml", "--json", logs=tmp_path)
    document = json.loads(done.stdout)
    assert (done.returncode, document["classes"]) == (1, [])
    assert [(missing["host"], missing["state"]) for missing in document["missing"]] == [("far", "unreachable")]
    assert "far" in done.stderr
    why_not = firstlight("plan", "-i", "hosts.yml", "--json", "--why-not", "vllm==0.33.0", logs=tmp_path)
    assert (why_not.returncode, json.loads(why_not.stdout)) == (1, {"schema_version": 1, "classes": []})
    printed = firstlight("plan", "-i", "hosts.yml", logs=tmp_path)
    assert printed.stdout.startswith("RED: 1 host could not be reached (far)")


def test_why_not_prints_one_document_of_its_schema(tmp_path: Path) -> None:
    line = "gpu=H100x8 driver=535.183.01 os=ubuntu-22.04 python=3.10 glibc=2.35"
    done = firstlight("plan", "--what-if", line, "--why-not", "vllm==0.33.0", "--json", logs=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["schema_version"]) == (0, 1)
    (answer,) = WhyNotDocument.model_validate_json(done.stdout).classes
    assert answer.requested == "vllm==0.33.0"
    assert answer.nearest is not None


def test_a_plan_tries_a_gated_adapter_before_its_model_is_fetched(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", LLAMA_70B, {"x": ("BF16", [64], 2)})
    (tmp_path / "token").write_text("hf_other")
    hub = Site()
    hub.faults.accepted = "Bearer hf_sesame"
    listing = {"sha": "c0ffee", "siblings": [{"rfilename": "adapter_config.json", "size": 2, "blobId": "0"}]}
    hub.content["/api/models/org/tone/revision/main"] = json.dumps(listing).encode()
    given = ("--set", "lora={tone: org/tone}", "--set", f"hf_token_file={tmp_path / 'token'}")
    try:
        done = firstlight("plan", "--model", str(folder), *given, logs=tmp_path, HF_ENDPOINT=hub.url)
    finally:
        hub.close()
    assert (done.returncode, done.stdout.partition("\n")[0]) == (1, "RED: 1 host failed (localhost)")
    assert "the hub refuses `org/tone` (HTTP 403): the account of the token may not read it" in done.stdout
    assert f"accept the licence on {hub.url}/org/tone with that account" in done.stdout


def test_the_checks_are_listed_without_a_host(tmp_path: Path) -> None:
    done = firstlight("verify", "--list", "--only", "kernels", "--json", logs=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [check["id"] for check in json.loads(done.stdout)]
    assert "kernels.gemm" in names
    assert "libraries.torch_build" in names, "dependencies of the selected checks run too"
    assert not [name for name in names if name.startswith(("attention.", "speed."))]
    assert not any(tmp_path.iterdir()), "no run was made"


def test_probe_prints_facts_that_can_be_planned(tmp_path: Path) -> None:
    done = firstlight("probe", "--json", logs=tmp_path)
    assert done.returncode == 0, done.stderr
    [facts] = json.loads(done.stdout)
    assert facts["host"] == "localhost"
    assert facts["cpu"]["logical"] == os.cpu_count()
    (tmp_path / "facts.json").write_text(done.stdout)
    planned = firstlight("plan", "--facts", "facts.json", logs=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.startswith("localhost\n")
    twice = firstlight("plan", "--facts", "facts.json", "--facts", "facts.json", logs=tmp_path)
    assert (twice.returncode, "facts of host `localhost` were given before" in twice.stderr) == (2, True)


def test_slices_that_are_to_be_made_are_planned(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == "a100-mig-one-of-two")
    (tmp_path / "facts.json").write_text(case.facts.model_dump_json())
    wanted = ("--set", "mig={1: [3g.20gb, 3g.20gb]}", "--set", 'gpus=["1:0"]')
    done = firstlight("plan", "--facts", "facts.json", *wanted, logs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"GPUs +slice 1:0\n", done.stdout)
    assert re.search(r"~ driver +slices of GPUs: 1=3g.20gb,3g.20gb\n", done.stdout)


def test_a_model_that_is_too_large_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", LLAMA_70B, {"x": ("BF16", [70_000_000_000], 2)})
    line = "gpu=H100x1 driver=580.65.06 os=ubuntu-24.04 python=3.12 arch=x86_64 cpu=avx512 glibc=2.39 ram=256 disk=900"
    done = firstlight("plan", "--what-if", line, "--model", str(folder), "--json", logs=tmp_path)
    assert done.returncode == 4, done.stderr
    document = json.loads(done.stdout)
    assert document["stack"] is None
    assert document["reasons"][0]["rule"] == "model-fit"
    assert document["nearest"]["text"].startswith("with 2 such GPUs")


def test_a_hub_id_without_a_network_is_named_with_a_hint(tmp_path: Path) -> None:
    done = firstlight(
        "plan", "--what-if", "gpu=H100x1", "--model", "org/model", logs=tmp_path, HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert done.returncode == 2, done.stderr
    assert "cannot tell whether model `org/model` fits: the hub `http://127.0.0.1:9` does not answer" in done.stderr
    assert "give a folder with the model (--model FOLDER)" in done.stderr


def redirected(line: str, logs: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with redirections of a shell."""
    environment = variables(logs, NO_COLOR="1")
    command = f"{shlex.join(COMMAND)} {line}"
    return subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)


def test_a_reader_that_stops_early_causes_no_error(tmp_path: Path) -> None:
    done = redirected("plan --what-if 'gpu=H100x8 driver=580.65.06' --explain | head -n 1", tmp_path)
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(("command", "code"), [("probe", 1), ("verify", 3)])
def test_a_folder_of_runs_that_cannot_be_created_is_named(command: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    done = redirected(command, tmp_path / "runs")
    assert done.returncode == code, done.stderr
    assert f"`{tmp_path}/runs/" in done.stderr
    assert "Not a directory" in done.stderr
    assert "FIRSTLIGHT_LOGS=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = redirected("plan --what-if gpu=H100x8 --json > /dev/full", tmp_path)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    done = firstlight("--version", logs=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"firstlight {__version__}\n")
