"""Exit codes of commands, and the location of the cache, for variables that are set or missing."""

import errno
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from provision.cli import exit_status
from provision.cli.main import app, main
from provision.cli.options import LOGS
from provision.core.folders import cache_folder
from provision.core.redaction import register_secret
from tests.pipeline.command_lines import FAR, Ended, firstlight, inventory_of, run_all, variables

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/firstlight")),
        ({"XDG_CACHE_HOME": "/x", "FIRSTLIGHT_CACHE": "/y"}, Path("/y")),
        ({"FIRSTLIGHT_CACHE": "~/y"}, Path.home() / "y"),
        ({}, Path.home() / ".cache" / "firstlight"),
    ],
)
def test_the_cache_is_where_the_environment_variable_points(environ: dict[str, str], folder: Path) -> None:
    assert cache_folder(environ) == folder


@pytest.mark.parametrize(("given", "used"), [(0o000, 0o002), (0o022, 0o022), (0o077, 0o077)])
def test_no_umask_lets_everybody_write_what_a_command_writes(
    monkeypatch: pytest.MonkeyPatch, given: int, used: int
) -> None:
    monkeypatch.setattr(exit_status, "run", lambda _: None)
    monkeypatch.setattr("provision.cli.main.guard_streams", lambda _: None)
    before = os.umask(given)
    try:
        main()
        assert os.umask(0) == used
    finally:
        os.umask(before)


def test_a_closed_standard_input_is_like_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exit_status, "run", lambda _: None)
    monkeypatch.setattr("provision.cli.main.guard_streams", lambda _: None)
    monkeypatch.setattr(sys, "stdin", None)
    main()
    assert not sys.stdin.isatty()
    with sys.stdin:
        assert sys.stdin.readline() == ""


def code_of(command: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """Return the exit code of a command that was typed with these words."""
    monkeypatch.setattr(sys, "argv", ["firstlight", *words])
    with pytest.raises(SystemExit) as end:
        exit_status.run(command)
    return end.value.code


@pytest.mark.parametrize(("command", "code"), [("plan", 2), ("verify", 64)])
def test_an_account_without_a_home_is_asked_to_set_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    def without_home() -> None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
        cache_folder({})

    assert code_of(without_home, monkeypatch, command) == code
    assert "has no home folder" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "code"), [("plan", 1), ("verify", 3)])
def test_an_internal_error_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, code: int
) -> None:
    """Exit code 1 of `verify` means that a check warned, so a fault must not use it."""
    register_secret("correct horse battery")

    def broken() -> None:
        raise RuntimeError("dictionary changed size during iteration of correct horse battery")

    assert code_of(broken, monkeypatch, command, "--json") == code
    printed = capsys.readouterr()
    assert "in broken" in printed.err
    assert "RuntimeError: dictionary changed size during iteration of [hidden]" in printed.err
    assert json.loads(printed.out)["error"]["text"].startswith("RuntimeError: dictionary changed size")
    assert "correct horse" not in printed.out + printed.err


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}]
)
def test_characters_that_an_encoding_lacks_cause_no_error(tmp_path: Path, locale: dict[str, str]) -> None:
    folder = tmp_path / "20261119T080000Z"
    folder.mkdir()
    header = {"run": folder.name, "command": "provision -i sité/übung", "pid": 1}
    (folder / "run.json").write_text(json.dumps(header, ensure_ascii=False), encoding="utf-8")
    done = subprocess.run(
        [ROOT / "firstlight", "logs", "list"],
        env=variables(tmp_path, **locale),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(("sit\\xe9/\\xfcbung", "sité/übung"))


def test_a_home_that_cannot_be_written_does_not_prevent_reading_an_inventory(tmp_path: Path) -> None:
    inventory_of(tmp_path, a={"ansible_connection": "ssh"})
    done = firstlight("probe", "-i", "hosts.yml", "--limit", "b", logs=tmp_path, HOME="/proc/self/fd")
    assert done.returncode == 2
    assert "'b' matches no host or group" in done.stderr


WITH_JSON = [
    (("plan", "--what-if", "gpu=H99x1", "--json"), 2, "`H99` is not a GPU in the catalog"),
    (("probe", "-i", "nowhere", "--json"), 2, "there is no inventory nowhere"),
    (("verify", "--only", "kernel", "--json"), 64, "no check or family is named `kernel`"),
    (("logs", "20990101T000000Z", "--json"), 2, "no run in"),
    (("uninstall", "--limit", ",", "--json"), 2, "one of its patterns is empty"),
    (("doctor", "--limit", "a", "-i", "nowhere", "--json"), 2, "there is no inventory"),
    (("doctor", "nowhere.log", "--json"), 2, "nowhere.log"),
    (("plan", "--nonsense", "--json"), 2, "--nonsense"),
    (("verify", "--level", "deep", "--json"), 64, "deep"),
]
HELPED = [(), ("plan",), ("logs",), ("logs", "diff"), ("verify",), ("bundle", "create")]
SHELLS = ("zsh", "fish")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Ended]:
    helped = [(*words, option) for words in HELPED for option in ("-h", "--help")]
    completions = [("completion", shell) for shell in SHELLS]
    return run_all([*(words for words, _, _ in WITH_JSON), *helped, *completions], tmp_path_factory.mktemp("lines"))


@pytest.mark.parametrize(
    ("words", "code", "message"), WITH_JSON, ids=lambda value: "-".join(value) if isinstance(value, tuple) else None
)
def test_with_json_an_error_is_a_document(
    words: tuple[str, ...], code: int, message: str, ended: dict[tuple[str, ...], Ended]
) -> None:
    done = ended[words]
    assert done.code == code, done.err
    document = json.loads(done.out)
    assert message in document["error"]["text"]
    assert document["exit_code"] == code
    assert message in done.err


def test_a_host_that_the_doctor_does_not_reach_is_named_in_json(tmp_path: Path) -> None:
    inventory_of(tmp_path, far=FAR)
    done = firstlight("doctor", "--limit", "far", "-i", "hosts.yml", "--json", logs=tmp_path)
    assert done.returncode == 1
    assert [host["state"] for host in json.loads(done.stdout)["hosts"]] == ["unreachable"]


@pytest.mark.parametrize("command", ["serve", "stop", "rollback", "uninstall"])
def test_commands_on_a_service_print_the_summary_as_json(command: str, tmp_path: Path) -> None:
    inventory_of(tmp_path, far=FAR)
    done = firstlight(command, "-i", "hosts.yml", "--json", logs=tmp_path)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "latest" / "summary.json").read_text())
    assert document["verdict"] == "red"
    assert [(host["name"], host["state"]) for host in document["hosts"]] == [("far", "unreachable")]


@pytest.mark.parametrize(("command", "phase"), [("stop", "serve"), ("uninstall", "install")])
def test_uninstall_of_nothing_is_reported_in_json(command: str, phase: str, tmp_path: Path) -> None:
    inventory_of(tmp_path, here={"ansible_connection": "local", "firstlight_prefix": str(tmp_path / "nothing")})
    done = firstlight(command, "-i", "hosts.yml", "--json", logs=tmp_path)
    assert done.returncode == 0, done.stderr
    [seen] = json.loads(done.stdout)["hosts"]
    undone = seen["phases"][phase]
    assert (undone["status"], undone["text"]) == ("skipped", "nothing is installed")


def test_uninstall_names_what_stays_on_this_machine(tmp_path: Path) -> None:
    inventory_of(tmp_path, here={"ansible_connection": "local", "firstlight_prefix": str(tmp_path / "nothing")})
    cache, logs = tmp_path / "my cache", tmp_path / "logs"
    cache.mkdir()
    (cache / "a.whl").write_bytes(b"0" * 3 * 2**20)
    given = {"FIRSTLIGHT_CACHE": str(cache), "FIRSTLIGHT_LOGS": str(logs), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    done = firstlight("uninstall", "-i", "hosts.yml", logs=tmp_path, **given)
    assert done.returncode == 0, done.stderr
    first, here, *remains = done.stdout.splitlines()
    assert first == "here: skipped: nothing is installed"
    assert here == "this machine, from which the hosts were reached: nothing is removed"
    assert re.fullmatch(
        rf"  remains: {cache}, 3\.\d MiB \(wheels, interpreters and models\): rm -rf '{cache}'", remains[0]
    )
    assert any(f": rm -rf {logs}" in line for line in remains)
    assert not any(str(tmp_path / "none") in line for line in remains)


@pytest.mark.parametrize(("limit", "names"), [("all", ["far", "gate"]), ("gate", ["gate"])])
def test_hosts_without_an_answer_are_named_in_the_json_of_verify(limit: str, names: list[str], tmp_path: Path) -> None:
    groups = {"gpu": {"hosts": {"far": FAR}}, "gateway": {"hosts": {"gate": FAR}}}
    (tmp_path / "hosts.yml").write_text(json.dumps(groups))
    words = ("verify", "-i", "hosts.yml", "--limit", limit, "--json", "--junit", "a.xml")
    done = firstlight(*words, logs=tmp_path)
    assert done.returncode == 3, done.stderr
    suites = ET.parse(tmp_path / "a.xml").getroot().findall("testsuite")
    assert [(suite.get("name"), suite.get("errors")) for suite in suites] == [(name, "1") for name in names]
    document = json.loads(done.stdout)
    assert document["hosts"] == []
    assert [(one["host"], one["state"]) for one in document["missing"]] == [(name, "unreachable") for name in names]
    assert all("127.0.0.1" in one["text"] for one in document["missing"])


@pytest.mark.parametrize("is_in_command", [False, True])
def test_an_interruption_outside_of_a_run_is_a_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_in_command: bool
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("provision.pipeline.commands.plan_recorded", interrupted)
    words = ("plan", "--what-if", "gpu=L4x1", "--json")
    assert code_of(app if is_in_command else interrupted, monkeypatch, *words) == 130
    printed = capsys.readouterr()
    assert json.loads(printed.out)["exit_code"] == 130
    assert printed.err == "interrupted\n"


def test_a_full_disk_of_the_runs_is_a_document(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = os.dup(sys.stdout.fileno())
    try:
        assert code_of(full, monkeypatch, "plan", "--json") == 1
    finally:
        os.dup2(before, sys.stdout.fileno())
        os.close(before)
    error = json.loads(capfd.readouterr().out)["error"]
    assert f"`{LOGS}`" in error["text"]
    assert "No space left on device" in error["text"]


def test_every_command_with_a_result_has_json() -> None:
    """The others print a script, a path, an answer of a model, differences, a document of JSON, or the files that they wrote and removed."""
    without = {
        command
        for command, options in _commands(get_command(app), ())
        if not any("--json" in option.opts for option in options)
    }
    assert without == {
        ("completion",),
        ("help",),
        ("chat",),
        ("init",),
        ("self-check",),
        ("logs", "open"),
        ("logs", "prune"),
        ("logs", "archive"),
        ("catalog", "refresh"),
        ("bundle", "create"),
        ("export", "kubernetes"),
        ("monitoring", "targets"),
    }


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Yield every command below one by its words, with its options."""
    if not (inner := getattr(command, "commands", {})):
        yield path, command.params
    for name, below in inner.items():
        yield from _commands(below, (*path, name))


@pytest.mark.parametrize("words", HELPED)
def test_minus_h_shows_the_help(words: tuple[str, ...], ended: dict[tuple[str, ...], Ended]) -> None:
    short, long = ended[*words, "-h"], ended[*words, "--help"]
    assert short.code == 0
    assert short.out == long.out
    assert "--help" in short.out


@pytest.mark.parametrize(
    ("line", "expected"),
    [("./firstlight pro", "provision"), ("./firstlight plan --what", "--what-if"), ("./firstlight logs di", "diff")],
)
def test_bash_completes_commands_and_options(line: str, expected: str) -> None:
    """Completion is called as bash calls it once the script is loaded: with the line in COMP_WORDS."""
    script = (
        'eval "$(./firstlight completion bash)"; complete -p firstlight >/dev/null || exit 9; '
        f"COMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 )); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; "
        '_firstlight_completion ./firstlight; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout.split()


@pytest.mark.parametrize("shell", SHELLS)
def test_other_shells_have_a_completion_script(shell: str, ended: dict[tuple[str, ...], Ended]) -> None:
    done = ended["completion", shell]
    assert done.code == 0
    assert f"_FIRSTLIGHT_COMPLETE=complete_{shell}" in done.out


def test_the_hint_of_an_unreachable_host_is_the_exact_command(tmp_path: Path) -> None:
    proxy = "nc -X connect -x proxy.example:3128 %h %p"
    inventory_of(tmp_path, far={**FAR, "ansible_user": "me", "ansible_ssh_common_args": f"-o ProxyCommand='{proxy}'"})
    done = firstlight("plan", "-i", "hosts.yml", "--json", logs=tmp_path)
    [missing] = json.loads(done.stdout)["missing"]
    assert missing["hint"] == f"try it by hand: ssh -p 1 -o 'ProxyCommand={proxy}' me@127.0.0.1 true"
