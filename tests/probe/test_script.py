"""The real script: several shells, no root, an empty environment, missing tools."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import Installed
from provision.phases.probe.reading import script
from tests.probe.here import AS_ROOT, SERVICE, program, run, traces, with_first
from tests.probe.test_recorded import RECORDED
from verify.tables import table

SCRIPTS = sorted((Path(__file__).parents[2] / "provision/phases/probe").glob("*.sh"))
UNSEEN = {"clock_skew_s", "secure_boot", "memory.shm"} | (set() if Path("/sys/module").exists() else {"kernel_modules"})
"""Facts that this machine may hide: a container sees none of its host's modules."""
SHELLS = {"dash": ("dash", "-s"), "busybox": ("busybox", "sh", "-s"), "bash as sh": ("bash", "--posix", "-s")}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_reports_nothing() -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", *map(str, SCRIPTS)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The command line of a shell."""
    if shutil.which(SHELLS[request.param][0]) is None:
        pytest.skip(f"{SHELLS[request.param][0]} is not installed")
    return SHELLS[request.param]


def test_all_shells_give_the_same_facts(shell: tuple[str, ...]) -> None:
    done = run(*shell, in_full=True)
    assert (done.rc, done.stderr) == (0, "")
    facts = done.facts
    assert facts.unknown.keys() <= UNSEEN
    assert facts.os.kernel == os.uname().release
    assert facts.os.hostname == os.uname().nodename
    assert facts.user.uid == os.geteuid()
    assert facts.cpu.logical == os.cpu_count()
    assert facts.memory.total == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert {disk.path for disk in facts.disks} >= {"/", "/var/tmp", "/dev/shm"}
    assert facts.disks[0].total == shutil.disk_usage("/").total
    assert traces(done.stdout) == []


def test_an_empty_environment_is_enough() -> None:
    done = run("env", "-i", "/bin/sh", "-s")
    facts = done.facts
    assert (done.rc, done.stderr) == (0, "")
    assert facts.user.home == str(Path("~").expanduser())
    assert facts.os.id is not None
    assert any(item.name == "tar" for item in facts.programs)


@AS_ROOT
def test_without_root_only_facts_that_this_machine_hides_are_unknown() -> None:
    done = run("su", "-s", "/bin/sh", "nobody", "-c", "sh -s", in_full=True)
    facts = done.facts
    assert facts.user.name == "nobody"
    assert facts.user.passwordless_sudo is False
    assert facts.installed is not None
    assert facts.installed.prefix.endswith("/.local/share/firstlight")
    assert facts.cpu.flags
    assert facts.unknown.keys() <= UNSEEN


@AS_ROOT
def test_a_home_that_ends_with_a_slash_gives_the_prefix_that_a_unit_names() -> None:
    found = run("setpriv", "--reuid", "65534", "--clear-groups", "env", "HOME=/home/ada/", "sh", "-s").facts.installed
    assert found is not None
    assert found.prefix == "/home/ada/.local/share/firstlight"


@AS_ROOT
def test_root_is_named_root_after_su_of_another_user() -> None:
    assert run(environment={**os.environ, "LOGNAME": "ada"}).facts.user.name == "root"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@AS_ROOT
@pytest.mark.parametrize(
    ("body", "allowed", "reason"),
    [
        ("exit 0", True, None),
        ("echo 'sudo: a password is required' >&2; exit 1", False, None),
        ("exec sleep 300", None, "no answer from sudo within 3 s"),
    ],
)
def test_passwordless_sudo_is_detected(open_folder: Path, body: str, allowed: bool | None, reason: str | None) -> None:
    program(open_folder, "sudo", body)
    facts = run("su", "-s", "/bin/sh", "nobody", "-c", f"PATH={open_folder}:$PATH sh -s", limit_s=3).facts
    assert facts.user.passwordless_sudo is allowed
    assert facts.unknown.get("user.passwordless_sudo", "").startswith(reason or "")
    assert ("user.passwordless_sudo" in facts.unknown) == (reason is not None)


@pytest.mark.parametrize("written", ["lxc", ""], ids=["container", "virtual machine"])
def test_files_tell_where_the_host_runs(tmp_path: Path, written: str) -> None:
    (tmp_path / "systemd" / "system").mkdir(parents=True)
    if written:
        (tmp_path / "systemd" / "container").write_text(f"{written}\n", encoding="ascii")
    (tmp_path / "dmi").mkdir()
    (tmp_path / "dmi" / "sys_vendor").write_text("VMware, Inc.\n", encoding="ascii")
    moved = {
        "/run/systemd/": f"{tmp_path}/systemd/",
        "/sys/class/dmi/id/": f"{tmp_path}/dmi/",
        "/.dockerenv": f"{tmp_path}/no",
    }
    facts = run(edit=moved).facts
    assert (facts.container, facts.virtualization) == (written or None, "vmware")


def test_only_a_full_probe_asks_for_the_state_of_systemd_and_for_ports(tmp_path: Path) -> None:
    (tmp_path / "systemd" / "system").mkdir(parents=True)
    program(tmp_path, "systemctl", "echo degraded; exit 1")
    program(
        tmp_path,
        "ss",
        'owner=; case $* in *p) owner=\'users:(("sshd",pid=812,fd=3))\' ;; esac; echo "LISTEN 0 128 127.0.0.1:22 0.0.0.0:* $owner"',
    )
    moved = {"/run/systemd/": f"{tmp_path}/systemd/"}
    full = run(environment=with_first(tmp_path), edit=moved, in_full=True).facts
    assert full.os.systemd_state == "degraded"
    assert [(port.port, port.process) for port in full.ports] == [(22, "sshd")]
    ordinary = run(environment=with_first(tmp_path), edit=moved).facts
    assert ordinary.os.systemd_state is None
    assert ordinary.ports == ()
    assert ordinary.unknown["ports"] == "only full probes ask for it"


def test_a_tool_that_reads_its_input_does_not_consume_the_script(tmp_path: Path) -> None:
    program(tmp_path, "nvidia-smi", "cat >/dev/null; echo 'No devices were found'; exit 6")
    facts = run(environment=with_first(tmp_path)).facts
    assert facts.nvidia is not None
    assert facts.nvidia.smi_error == "No devices were found"
    assert facts.installed is not None


def test_a_truncated_script_runs_nothing() -> None:
    whole = script(prefix=None)
    done = subprocess.run(
        ["sh", "-s"], input=whole[: whole.rindex("\nmain\n")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_nvidia_smi_is_read_through_its_filter(tmp_path: Path) -> None:
    text = (RECORDED / "h100-sxm8.txt").read_text(encoding="utf-8")
    document = text[text.index("<?xml") : text.index("</nvidia_smi_log>")] + "</nvidia_smi_log>\n"
    clocks = "<supported_mem_clock>\n<value>2619 MHz</value>\n<supported_graphics_clock>1980 MHz</supported_graphics_clock>\n</supported_mem_clock>\n"
    (tmp_path / "answer.xml").write_text(document.replace("<value>2619 MHz</value>", clocks), encoding="utf-8")
    program(tmp_path, "nvidia-smi", f'case $1 in -q) cat {tmp_path}/answer.xml ;; *) echo "GPU-none, 9.0" ;; esac')
    done = run(environment=with_first(tmp_path))
    assert "supported_graphics_clock" not in done.stdout
    assert done.facts.nvidia is not None
    assert len(done.facts.nvidia.gpus) == 8
    assert done.facts.unknown["nvidia.gpus.compute_capability"] == "GPU-none, 9.0"


def test_missing_headers_and_venv_of_a_python_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "python" / "bin"
    folder.mkdir(parents=True)
    program(folder, "python3.14", "echo Python 3.14.2")
    facts = run(environment=with_first(folder)).facts
    found = next(item for item in facts.pythons if item.path == str(folder / "python3.14"))
    assert (found.version, found.headers, found.venv) == ("3.14.2", False, False)
    assert any(item.version == sys.version.split()[0] for item in facts.pythons) or "pyenv" not in sys.base_prefix


@pytest.mark.parametrize(("shared", "torch"), [("false", None), ("true", "2.8.0+cu128")])
def test_a_named_virtual_environment_is_read_as_well_as_its_base_python(
    tmp_path: Path, shared: str, torch: str | None
) -> None:
    base, home = tmp_path / "base", tmp_path / "pytorch"
    for folder, held in ((base, "2.8.0+cu128"), (home, "2.7.0+cu126")):
        packages = folder / "lib/python3.14/site-packages/torch"
        packages.mkdir(parents=True)
        (packages / "version.py").write_text(f"__version__ = '{held}'\n")
        (folder / "bin").mkdir()
    program(base / "bin", "python3.14", "echo Python 3.14.2")
    (home / "bin/python").symlink_to(base / "bin/python3.14")
    (home / "pyvenv.cfg").write_text(f"home = {base}/bin\ninclude-system-site-packages = {shared}\n")
    environment, named = with_first(base / "bin"), str(home / "bin/python")

    def seen() -> dict[str, str | None]:
        return {item.path: item.torch for item in run(python=named, environment=environment).facts.pythons}

    there = seen()
    assert there[named] == "2.7.0+cu126"
    assert there[str(base / "bin/python3.14")] == "2.8.0+cu128"
    (home / "lib/python3.14/site-packages/torch/version.py").unlink()
    assert seen()[named] == torch


def test_shims_of_a_version_manager_are_not_run(tmp_path: Path) -> None:
    shims, real = tmp_path / "shims", tmp_path / "versions/3.14.2/bin"
    shims.mkdir()
    real.mkdir(parents=True)
    program(shims, "python3.14", f"touch {tmp_path}/ran")
    program(real, "python3.14", "echo Python 3.14.2")
    facts = run(environment=with_first(shims)).facts
    assert str(real / "python3.14") in [item.path for item in facts.pythons]
    assert not (tmp_path / "ran").exists()


def test_an_installation_without_releases_is_read_as_before(tmp_path: Path) -> None:
    installation(tmp_path)
    for name, digest in (("current", "bbbb"), ("previous", "aaaa")):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to(f"envs/{digest}")
    shutil.rmtree(tmp_path / "releases")
    found = installed(tmp_path)
    assert (found.current, found.previous) == ("bbbb", "aaaa")
    assert (found.release, found.previous_release, found.releases) == (None, None, ())


def test_vllm_processes_are_found() -> None:
    process = subprocess.Popen(["VLLM::EngineCore", "300"], executable=shutil.which("sleep"))
    try:
        found = next(item for item in run().facts.engine_processes if item.pid == process.pid)
    finally:
        process.kill()
        process.wait()
    assert (found.name, found.parent, found.uid) == ("VLLM::EngineCore 300", os.getpid(), os.geteuid())
    assert found.user is not None


def installed(prefix: Path, *shell: str, **options: Any) -> Installed:
    """Return what the probe finds of an installation."""
    found = run(*shell, prefix=str(prefix), **options).facts.installed
    assert found is not None
    return found


def installation(prefix: Path) -> Path:
    """Write the files of an installation under its prefix; return the file that will be changed."""
    for digest in ("aaaa", "bbbb", "half"):
        (prefix / "envs" / digest).mkdir(parents=True)
        (prefix / "envs" / digest / "lock.txt").write_text(digest, encoding="utf-8")
    for digest in ("aaaa", "bbbb"):
        (prefix / "envs" / digest / ".complete").write_text("{}", encoding="utf-8")
    for release, digest in (("r1", "aaaa"), ("r2", "bbbb")):
        (prefix / "releases" / release).mkdir(parents=True)
        (prefix / "releases" / release / "environment").symlink_to(f"../../envs/{digest}")
        (prefix / "releases" / release / "release.json").write_text("{}", encoding="utf-8")
    (prefix / "models/tiny-0a").mkdir(parents=True)
    (prefix / "models/tiny-0a/.complete").write_text('{"config.json": {}, "lora/x/w": {}}', encoding="utf-8")
    (prefix / "current").symlink_to("releases/r2/environment")
    (prefix / "previous").symlink_to("releases/r1/environment")
    (prefix / "state.json").write_text(json.dumps({"environment": "bbbb"}), encoding="utf-8")
    (prefix / "verify").mkdir()
    (prefix / "verify/last.json").write_text(json.dumps({"status": "ok"}), encoding="utf-8")
    unit = prefix / "a unit.service"
    unit.write_text("[Unit]\n", encoding="utf-8")
    listed = [unit, prefix / "envs/bbbb/.complete"]
    (prefix / "state.sha256").write_text(
        "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file}\n" for file in listed), encoding="utf-8"
    )
    return unit


def test_installed_files_are_reported(tmp_path: Path, shell: tuple[str, ...]) -> None:
    prefix = tmp_path / "it's a prefix"
    unit = installation(prefix)
    before = installed(prefix, *shell)
    assert (before.current, before.previous, before.environments) == ("bbbb", "aaaa", ("aaaa", "bbbb"))
    assert before.models == ("tiny-0a",)
    assert before.model_files == {"tiny-0a": ("config.json", "lora/x/w")}
    assert (before.release, before.previous_release, before.releases) == ("r2", "r1", ("r1", "r2"))
    assert before.state == {"environment": "bbbb"}
    assert before.last_verify == {"status": "ok"}
    assert before.locked_by is None
    assert before.drift == ()
    unit.write_text("[Unit]\nDescription=mine\n", encoding="utf-8")
    (prefix / "envs/bbbb/.complete").unlink()
    after = installed(prefix, *shell)
    marker = prefix / "envs/bbbb/.complete"
    assert [each.sentence for each in after.drift] == [f"{unit} has another content", f"{marker} is gone"]
    assert after.environments == ("aaaa",)
    (prefix / "state.sha256").unlink()
    without_list = installed(prefix, *shell)
    assert [each.sentence for each in without_list.drift] == [f"{prefix}/state.sha256 is gone"]


def test_files_on_arrival_are_reported(tmp_path: Path, shell: tuple[str, ...]) -> None:
    moved = {"/var/tmp/firstlight-$FL_UID": f"{tmp_path}/it's $FL_UID"}
    assert run(*shell, edit=moved).facts.incoming == {}
    folder = tmp_path / f"it's {os.geteuid()}"
    (folder / "lora").mkdir(parents=True)
    for name, size in ((".1f.part", 3), ("lora/a b", 5), ("not verified", 7)):
        (folder / name).write_bytes(bytes(size))
    (folder / ".arrived").write_text(
        f"{'c' * 64} 5 1700000000 lora/a b\n{'d' * 64} 9 1700000000 gone\n", encoding="ascii"
    )
    assert run(*shell, edit=moved).facts.incoming == {"c" * 64: 5, ".1f.part": 3, "not verified": 7}


def test_what_others_gave_or_left_is_reported(tmp_path: Path, shell: tuple[str, ...]) -> None:
    prefix, around = tmp_path / "it's a prefix", tmp_path / "around"
    unit = installation(prefix)
    for folder in ("bin", "etc"):
        (prefix / folder).mkdir()
    environment = prefix / "etc/service.env"
    environment.write_text("VLLM_API_KEY='the-key-itself'\n", encoding="ascii")
    (prefix / "state.unit").write_text("User=serves\n", encoding="ascii")
    known = [unit, environment, *(prefix / "releases").rglob("*")]
    (prefix / "state.files").write_text("".join(f"644 0 0 - - - {path}\n" for path in known), encoding="utf-8")
    (around / "etc/sudoers.d").mkdir(parents=True)
    (around / "etc/group").write_text("docker:x:9:a,serves\nserves:x:997:\nsudo:x:27:serves2\n", encoding="ascii")
    files = ("/etc/sudoers", "/etc/sudoers.d/*", "/etc/group")
    moved = {
        " ".join(files): " ".join(f"{around}{file}" for file in files),
        "find /etc /home/* /opt /srv /tmp": f"find {around}",
        "sed -n '1,200s/": f"sed -n 's,^{around},,;1,200s/",
    }
    named = ("the service's account is in group docker",)
    found = installed(prefix, *shell, edit=moved)
    assert found.foreign == named
    (around / "etc/sudoers.d/x").write_text("# serves\n%serves ALL=(root) NOPASSWD: /bin/sh\nserves2 ALL=ALL\n")
    for name, mode in (("copy", 0o644), ("closed", 0o600)):
        (around / name).write_text("the-key-itself\n", encoding="ascii")
        (around / name).chmod(mode)
    (prefix / "bin/helper").touch()
    found = installed(prefix, *shell, edit=moved)
    assert found.foreign == (
        "/etc/sudoers.d/x gives the service's account sudo rights: `%serves ALL=(root) NOPASSWD: /bin/sh`",
        *named,
        f"{prefix}/bin/helper is unknown: nobody installed it",
        "/copy has the API key, and everybody may read it",
    )


def test_what_the_probe_looks_for_is_what_the_checks_look_for() -> None:
    assert f"find {' '.join(sorted(table('installed')['files']['copies']))} " in SCRIPTS[-1].read_text(encoding="utf-8")


def test_a_locked_host_names_the_holder_and_a_stale_file_does_not(tmp_path: Path) -> None:
    installation(tmp_path)
    (tmp_path / "lock.json").write_text(json.dumps({"run": "r1"}), encoding="utf-8")
    lock = tmp_path / "lock"
    lock.touch()
    stale = installed(tmp_path)
    with subprocess.Popen(["flock", str(lock), "sleep", "300"]) as holder:
        for _ in range(100):
            held = installed(tmp_path)
            if held.locked_by is not None:
                break
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text(encoding="ascii").split()
        for pid in [*map(int, children), holder.pid]:
            os.kill(pid, 9)
    assert (stale.locked_by, stale.lock_is_left) == (None, True)
    assert (held.locked_by, held.lock_is_left) == ({"run": "r1"}, False)


def test_a_service_under_supervisor_is_reported(tmp_path: Path) -> None:
    installation(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "etc/supervisord.conf").write_text(
        "[supervisord]\npidfile = %(here)s/../run/supervisord.pid\n", encoding="utf-8"
    )
    stopped = installed(tmp_path)
    code = "import subprocess, sys; child = subprocess.Popen(['sleep', '300']); print('up', flush=True)"
    code += "; child.wait(); print('ended', flush=True); sys.stdin.read()"
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, "supervisord"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    supervisor.stdout.readline()
    (tmp_path / "run/supervisord.pid").write_text(f"{supervisor.pid}\n", encoding="ascii")
    child = int(Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children").read_text(encoding="ascii"))
    ticks = int(Path(f"/proc/{child}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19])
    running = installed(tmp_path)
    os.kill(child, signal.SIGSTOP)
    frozen = installed(tmp_path)
    os.kill(child, 9)
    supervisor.stdout.readline()
    failed = installed(tmp_path)
    supervisor.communicate()
    dead = installed(tmp_path)
    assert (stopped.supervisor, stopped.service) == ("supervisor", "inactive")
    assert (running.supervisor, running.service, running.service_pid) == ("supervisor", "active", child)
    assert (running.service_start_ticks, running.drift) == (ticks, ())
    assert [(each.kind, each.path) for each in frozen.drift] == [("process", f"/proc/{child}")]
    assert (failed.service, failed.service_pid) == ("failed", None)
    assert (dead.service, dead.service_pid) == ("inactive", None)


@AS_ROOT
def test_a_private_prefix_of_another_user_is_unknown_not_empty(tmp_path: Path) -> None:
    installation(tmp_path)
    tmp_path.chmod(0o700)
    done = run("su", "-s", "/bin/sh", "nobody", "-c", "sh -s", prefix=str(tmp_path))
    assert "installed.state" in done.facts.unknown


@AS_ROOT
def test_files_of_another_user_are_unknown_one_by_one(open_folder: Path) -> None:
    installation(open_folder)
    (open_folder / "state.json").chmod(0o600)
    (open_folder / "verify").chmod(0o700)
    (open_folder / "a unit.service").chmod(0o600)
    facts = run("su", "-s", "/bin/sh", "nobody", "-c", "sh -s", prefix=str(open_folder)).facts
    assert facts.installed is not None
    assert (facts.installed.current, facts.installed.state, facts.installed.drift) == ("bbbb", None, ())
    refused = {path: reason for path, reason in facts.unknown.items() if path.startswith("installed.")}
    assert refused == {
        "installed.state": f"no permission to read {open_folder}/state.json",
        "installed.last_verify": f"no permission to read {open_folder}/verify/last.json",
        "installed.last_ready": f"no permission to read {open_folder}/verify/ready.json",
        "installed.drift": f"no permission to read {open_folder}/a unit.service",
    }


@AS_ROOT
def test_the_image_of_a_container_is_for_root_to_see(open_folder: Path) -> None:
    prefix = open_folder / "prefix"
    installation(prefix)
    quadlet = f"[Container]\nImage=1f\nVolume={prefix}:{prefix}:ro\n"
    (open_folder / f"firstlight-vllm@{SERVICE}.container").write_text(quadlet, encoding="ascii")
    program(open_folder, "podman", 'test "$(id -u) $*" = "0 image exists 1f"')
    login = ("su", "-s", "/bin/sh", "nobody", "-c", f"PATH={open_folder}:$PATH sh -s")
    moved = {"quadlet=/etc/containers/systemd/": f"quadlet={open_folder}/"}
    assert installed(prefix, environment=with_first(open_folder), edit=moved).image == "1f"
    seen = run(*login, prefix=str(prefix), edit=moved).facts
    assert seen.unknown["installed.image"] == "no permission to read root's images of podman"
    other = run(*login, prefix=str(open_folder), edit=moved).facts
    assert "installed.image" not in other.unknown, "the image of another installation"


def test_a_host_without_a_writable_folder_is_reported() -> None:
    done = run(
        edit={
            'for folder in /run "/run/user/$FL_UID" "${TMPDIR:-/tmp}" /dev/shm /var/tmp "$FL_HOME"': "for folder in /proc"
        }
    )
    assert done.rc == 1
    assert done.facts.unknown["os.kernel"].startswith("no folder on the host could be written")
