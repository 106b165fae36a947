"""Write down what an engine that hangs does, and start it anew: `watchdog.py --prefix PREFIX --unit UNIT --restarts N`.

systemd starts it, as root, when the health agent asks for a restart by PREFIX/run/hang, a file of the service's account with the
reason. It waits while a run has the host, or while a debugger has a process of the engine, and does nothing for a unit that is not active.

After `--restarts` restarts within an hour it stops the unit instead. PREFIX/health-agent/watchdog.json tells what it did, for runs and metrics.
Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HOUR_S = 3600
WAIT_S = 2.0
DUMP_S = 10.0
"""What one program, or all flight recorders, may take to write."""
ANSWER_S = 2.0
"""What a process may take to write its stacks after the signal."""
KEPT = 20
"""Events in the record; the count goes on."""
STACKS = re.compile(r"^/memfd:firstlight-stacks-(\d+) ")
STATE = ("ActiveState", "Job", "InvocationID", "ControlGroup")
BUSY, OVER = "a run has this host", "the engine computes again"
SETTLE_S = 6.0
"""Two looks of the agent without a gateway (health.toml): a request that no longer holds is gone after them."""
CONTROL_GROUPS = ("/sys/fs/cgroup{}/cgroup.procs", "/sys/fs/cgroup/systemd{}/cgroup.procs")


def main() -> None:
    """Act on a request, as soon as that is possible."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--unit", required=True)
    parser.add_argument("--restarts", type=int, required=True)
    options = parser.parse_args()
    request, said = options.prefix / "run/hang", ""
    while (reason := reason_of(request)) is not None:
        # What spoke against it, such as a run that waited for its answer, may have ended with the hang.
        settle_s = SETTLE_S if said else 0.0
        against = try_to_act(options.prefix, options.unit, options.restarts, reason, settle_s=settle_s)
        if against is None:
            break
        if against != said:
            log(f"down: {reason}; not restarted yet: {against}")
            said = against
        time.sleep(WAIT_S)


def log(text: str) -> None:
    """Write a line to the journal."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def reason_of(request: Path) -> str | None:
    """Return the reason of a request, in one line; None without one. The account of the service may write anything there."""
    try:
        descriptor = os.open(request, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        text = file.read(200).decode(errors="replace") if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""
    return "".join(letter for letter in text if letter.isprintable()) or "without a reason"


def obstacle(unit: str, state: dict[str, str], pids: list[int]) -> str | None:
    """Return what speaks against a restart of the unit now."""
    if state["ActiveState"] != "active":
        return f"{unit} is {state['ActiveState']}"
    if state.get("Job", "0") not in ("", "0"):
        return f"systemd is about to stop or start {unit}"
    tracers = {pid: tracer for pid in pids if (tracer := status_of(pid).get("TracerPid", "0")) != "0"}
    return "; ".join(f"process {pid} is traced by process {tracer}" for pid, tracer in tracers.items()) or None


def try_to_act(prefix: Path, unit: str, restarts: int, reason: str, *, settle_s: float = 0.0) -> str | None:
    """Restart or stop the unit, unless something speaks against it now, or the request is taken back; return that."""
    state = state_of(unit)
    pids = processes(state["ControlGroup"])
    if (against := obstacle(unit, state, pids)) is not None:
        if state["ActiveState"] != "active":
            (prefix / "run/hang").unlink(missing_ok=True)
        return against
    with locked(prefix) as is_free:
        if not is_free:
            return BUSY
    # Without the lock: a person's command is not refused while this waits, and while the processes write.
    time.sleep(settle_s)
    if reason_of(prefix / "run/hang") is None:
        return OVER
    now = time.time()
    path = write_dump(prefix, unit, reason, now, pids)
    with locked(prefix) as is_ours:
        if not is_ours:
            return BUSY
        # The request may be gone: writing lets a process go on that a signal stopped.
        if state_of(unit) != state:
            return f"{unit} was stopped or started at the same time"
        act(prefix, unit, restarts, reason, now=now, path=path)
    return None


def act(prefix: Path, unit: str, restarts: int, reason: str, *, now: float, path: Path) -> None:
    """End the processes, start the unit anew or leave it down, and note it."""
    record_file = prefix / "health-agent/watchdog.json"
    try:
        record = json.loads(record_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {"restarts": 0, "events": []}
    recent = [one for one in record["events"] if one["action"] == "restarted" and now - one["seconds"] < HOUR_S]
    action = "restarted" if len(recent) < restarts else "left down"
    if action == "left down" and recent:
        times = f"{len(recent)} restart{'s' if len(recent) > 1 else ''}"
        reason = f"hung again after {times} within an hour: {reason}"
    event = {"at": stamp_of(now), "seconds": int(now), "action": action, "reason": reason, "dump": str(path)}
    record["restarts"] += action == "restarted"
    record["events"] = [*record["events"], event][-KEPT:]
    new = record_file.with_suffix(".new")
    with suppress(OSError):  # a full disk keeps no engine down
        new.write_text(json.dumps(record) + "\n", encoding="utf-8")
        new.chmod(0o644)
        new.replace(record_file)
    known = tuple(Path(one["dump"]).stem for one in record["events"])
    for old in path.parent.glob("hang-*"):
        if not old.name.startswith(known):
            old.unlink()
    (prefix / "run/hang").unlink(missing_ok=True)
    log(f"down: {reason}; {action}; threads and stacks are in {path}")
    # A process that hangs would use all the time that it has to end; SIGKILL also ends one that a signal stopped.
    systemctl("kill", "--signal=KILL", unit)
    if action == "restarted":
        systemctl("reset-failed", unit)
        systemctl("restart", "--no-block", unit)
    else:
        systemctl("stop", unit)


def systemctl(*words: str) -> str:
    """Return what systemctl prints; what it cannot do is in the journal."""
    return subprocess.run(["systemctl", *words], stdout=subprocess.PIPE, text=True, check=False).stdout


def state_of(unit: str) -> dict[str, str]:
    """Return the properties of a unit that tell what it does."""
    said = systemctl("show", f"--property={','.join(STATE)}", unit)
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)


def processes(group: str) -> list[int]:
    """Return the processes of a control group."""
    for path in CONTROL_GROUPS:
        file = Path(path.format(group))
        with suppress(OSError):
            # podman puts a container into groups below that of its unit.
            files = (file, *file.parent.glob(f"*/{file.name}"))
            return [int(word) for one in files for word in one.read_text(encoding="ascii").split()]
    return []


@contextmanager
def locked(prefix: Path) -> Iterator[bool]:
    """Take the lock that a run takes (provision/fleet/locks.py); false where a run has it."""
    path, holder = prefix / "lock", prefix / "lock.json"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            yield False  # a run that ended has removed it: the next try finds a new one
            return
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        who = {"run": "watchdog", "controller": os.uname().nodename, "user": "root", "pid": os.getpid(), "since": since}
        with suppress(OSError):
            holder.write_text(json.dumps(who), encoding="utf-8")
        try:
            yield True
        finally:
            holder.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def stamp_of(now: float) -> str:
    """Return a time as in the names of runs."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def write_dump(prefix: Path, unit: str, reason: str, now: float, pids: list[int]) -> Path:
    """Write what processes do: all that is read without their help first, as their help lets those go on that a signal stopped.

    The folder is the service's: no link there is followed, and no file replaced.
    """
    path = prefix / "logs" / f"hang-{stamp_of(now)}.txt"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with suppress(OSError), os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8", errors="replace") as file:
        file.write(f"down: {reason}\n{unit} at {stamp_of(now)}\n")
        for pid in pids:
            file.write(f"\nprocess {pid}: {read(f'/proc/{pid}/cmdline')[:300]}\n{kernel_view(pid)}")
        for pid in pids:
            file.write(f"\nPython stacks of process {pid}:\n{python_stacks(prefix, pid)}\n")
        for line in flight_records(path, pids):
            file.write(f"{line}\n")
        file.write(said_by("nvidia-smi"))
    return path


def read(path: str) -> str:
    """Return the text of a file of /proc; why it cannot be read where that is so."""
    try:
        return Path(path).read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError as error:
        return f"({error.strerror})"


def status_of(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status; none of a process that has ended."""
    lines = (line.partition(":") for line in read(f"/proc/{pid}/status").splitlines())
    return {name: value.strip() for name, _, value in lines}


def kernel_view(pid: int) -> str:
    """Return state, place in the kernel and kernel stack of each thread."""
    lines = [read(f"/proc/{pid}/status")]
    for thread in sorted(Path(f"/proc/{pid}/task").glob("[0-9]*"), key=lambda path: int(path.name)):
        state = read(f"{thread}/stat").rpartition(")")[2].split()[:1]
        lines.append(f"thread {thread.name} {read(f'{thread}/comm')}: {' '.join(state)} in {read(f'{thread}/wchan')}")
        lines.append(read(f"{thread}/stack"))
    return "\n".join(lines) + "\n"


def python_stacks(prefix: Path, pid: int) -> str:
    """Return the Python stacks of a process: by py-spy where the environment has it, else written by the process itself."""
    spy = prefix / "current/bin/py-spy"
    if spy.exists():
        return said_by(str(spy), "dump", "--nonblocking", "--pid", str(pid))
    for entry in sorted(Path(f"/proc/{pid}/fd").glob("[0-9]*")):
        with suppress(OSError):
            if found := STACKS.match(str(entry.readlink())):
                return asked_for_stacks(pid, entry, int(found[1]))
    return "(no py-spy in the environment, and the process has not registered the plugin's signal)"


def asked_for_stacks(pid: int, file: Path, number: int) -> str:
    """Return what a process writes into a file in memory after a signal. The plugin of the engine opened it (firstlight_attention/stacks.py)."""
    # Of a process that has no handler the signal would be the end.
    if not int(status_of(pid).get("SigCgt", "0"), 16) >> (number - 1) & 1:
        return "(the process has no handler of the signal)"
    before = file.stat().st_size
    os.kill(pid, number)
    os.kill(pid, signal.SIGCONT)
    deadline, size = time.monotonic() + ANSWER_S, before
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if size == file.stat().st_size > before:
            break
        size = file.stat().st_size
    with file.open("rb") as stacks:
        stacks.seek(before)
        return stacks.read().decode(errors="replace") or "(the process does not answer the signal)"


def flight_records(dump: Path, pids: list[int]) -> list[str]:
    """Let NCCL's flight recorders write, keep what they wrote beside the dump, and return a line for each.

    They listen at pipes where the service's settings name one: TORCH_NCCL_DEBUG_INFO_PIPE_FILE, torch/csrc/distributed/c10d/ProcessGroupNCCL.
    """
    lines = []
    for pid in pids:
        variables = dict(word.partition("=")[::2] for word in read(f"/proc/{pid}/environ").split(" "))
        pipe = variables.get("TORCH_NCCL_DEBUG_INFO_PIPE_FILE")
        root = f"/proc/{pid}/root"
        for listening in Path(root).glob(f"{pipe.lstrip('/')}*.pipe") if pipe else ():
            rank = listening.stem.removeprefix(Path(pipe or "").name)
            written = Path(f"{root}{variables.get('TORCH_NCCL_DEBUG_INFO_TEMP_FILE', '/tmp/nccl_trace_rank_')}{rank}")  # noqa: S108
            kept = dump.with_name(f"{dump.stem}-nccl-{rank}")
            if not kept.exists() and kept_record(listening, written, kept):
                lines.append(f"NCCL's flight record of rank {rank} is in {kept}")
    return lines


def kept_record(pipe: Path, written: Path, kept: Path) -> bool:
    """Return whether a flight recorder wrote its file, which is copied."""
    began, deadline = time.time(), time.monotonic() + DUMP_S
    with suppress(OSError):
        descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        os.write(descriptor, b"1\n")
        os.close(descriptor)
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if written.exists() and began - 1 < written.stat().st_mtime < time.time() - 1:
                kept.write_bytes(written.read_bytes())
                return True
    return False


def said_by(*words: str) -> str:
    """Return what a program prints; nothing where it is missing."""
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return process.communicate(timeout=DUMP_S)[0]
    except subprocess.TimeoutExpired as error:
        process.kill()  # and not waited for: a driver that hangs may keep it for ever
        return f"({words[0]}: {error})\n"
    except OSError as error:
        return "" if isinstance(error, FileNotFoundError) else f"({words[0]}: {error})\n"


if __name__ == "__main__":
    main()
