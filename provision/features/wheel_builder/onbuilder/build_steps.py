"""The commands `builder.pyz facts PYTHON CUDA` and `builder.pyz build FOLDER`; an event is a line of JSON.

One build in its folder has steps that a later run resumes: environment, source, compilation, wheel.

FOLDER/request.json  the build request of the controller
FOLDER/incoming/     wheels of the build environment, the sdist, uv, an interpreter
FOLDER/env/          the build environment; complete when its marker has the digest of its lock
FOLDER/source/       the unpacked sdist, with ninja's state
FOLDER/out/          the wheel
FOLDER/build.log     all commands and their output
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import sys
import tarfile
from pathlib import Path
from typing import IO, Any

from verify.host.control_group import free_memory, usable_cores

from . import facts
from .facts import read_facts, release_of
from .process import CancelledError, FailedError, cancel_on_signals, run, send_event

_ERROR = re.compile(r"\berror:|\berror [A-Z]?\d+|^\S*Error: |Killed|No space left on device|undefined reference|signal")
"""Error lines of compilers, linkers and Python."""
_STEP = re.compile(r"\[(\d+)/(\d+)\] ")
"""A line of ninja; a resumed ninja counts the rest alone."""
SHOWN = 6
"""Maximum number of error lines that are sent to the controller; the log has all."""


def main() -> int:
    """Return 0 on success, 1 on failure, 130 when cancelled."""
    if sys.argv[1] == "facts":
        sys.stdout.write(json.dumps(read_facts(sys.argv[2], sys.argv[3])) + "\n")
        return 0
    cancel_on_signals()
    try:
        build(Path(sys.argv[2]))
    except FailedError as failure:
        send_event("failed", text=failure.text, hint=failure.hint)
        return 1
    except CancelledError as reason:
        send_event("cancelled", text=str(reason))
        return 130
    return 0


def build(folder: Path) -> None:
    """Build the wheel, or find it built, and send the result. Raises FailedError or CancelledError."""
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    with (folder / ".lock").open("w") as lock, (folder / "build.log").open("ab") as log:
        # A second run waits and then uses the same wheel. A signal ends the waiting too.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            send_event("step", text="waiting for another run that builds this")
            fcntl.flock(lock, fcntl.LOCK_EX)
        result = _result(folder)
        if result is None:
            result = _Build(folder, request, log).make()
            (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        send_event("built", **result)


class _Build:
    def __init__(self, folder: Path, request: dict[str, Any], log: IO[bytes]) -> None:
        self._folder, self._request, self._log = folder, request, log
        self._env = folder / "env"
        self._python = self._env / "bin" / "python"

    def make(self) -> dict[str, Any]:
        cores, free = usable_cores(), free_memory()
        jobs = facts.jobs(cores, free, self._request["memory_gib"])
        send_event("step", text=facts.describe(cores, free, jobs, self._request["memory_gib"]))
        self._prepare_environment()
        source = self._unpack()
        environ = self._environ(jobs)
        out = self._folder / "out"
        shutil.rmtree(str(out), ignore_errors=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [str(self._python), "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
        send_event("step", text="building")
        self._compile([*command, "--outdir", str(out), str(source)], environ)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wheels = sorted(out.glob("*.whl"))
        if len(wheels) != 1:
            raise FailedError("the build succeeded with {} wheels".format(len(wheels)), "see the log")  # noqa: UP032
        return {
            "wheel": str(wheels[0]),
            "sha256": hashlib.sha256(wheels[0].read_bytes()).hexdigest(),
            "jobs": jobs,
            "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
            "largest_process_gib": round(after.ru_maxrss / (1 << 20), 2),
            "nvcc": release_of(environ["CUDA_HOME"] + "/bin/nvcc") if "CUDA_HOME" in environ else None,
        }

    def _compile(self, command: list[str], environ: dict[str, str]) -> None:
        errors: list[str] = []

        def watch(line: str) -> None:
            if step := _STEP.match(line):
                send_event("step", text="{} of {} units compiled".format(*step.groups()))
            if len(errors) < SHOWN and _ERROR.search(line):
                errors.append(line)

        try:
            run(command, self._log, environ, self._folder, watch)
        except FailedError as failure:
            lines = "\n".join("  " + line.strip()[:300] for line in errors or failure.hint.splitlines()[-SHOWN:])
            raise FailedError(
                "the compilation failed:\n" + lines,
                "see the log {}; compiled units are kept for the next run".format(self._folder / "build.log"),
            ) from None

    def _prepare_environment(self) -> None:
        lock = self._request["lock"]
        marker, digest = self._env / ".complete", hashlib.sha256(lock.encode()).hexdigest()
        if marker.is_file() and marker.read_text(encoding="ascii") == digest:
            return
        send_event("step", text="creating the build environment")
        shutil.rmtree(str(self._env), ignore_errors=True)
        (self._folder / "lock.txt").write_text(lock, encoding="utf-8")
        uv, python = str(self._folder / "incoming" / "uv"), self._interpreter()
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PYTHON", "VIRTUAL"))}
        environ.update(
            UV_NO_CONFIG="1",
            UV_OFFLINE="1",
            UV_NO_PROGRESS="1",
            UV_PYTHON_DOWNLOADS="never",
            UV_LINK_MODE="hardlink",
            UV_CACHE_DIR=str(self._folder / "uv-cache"),
        )
        sync = [uv, "pip", "sync", "--no-index", "--find-links", str(self._folder / "incoming"), "--require-hashes"]
        for command in (
            [uv, "venv", "--quiet", "--no-project", "--python", python, str(self._env)],
            [*sync, "--python", str(self._python), str(self._folder / "lock.txt")],
        ):
            try:
                run(command, self._log, environ, self._folder)
            except FailedError as failure:
                raise FailedError(
                    "the build environment cannot be created: " + failure.hint.strip(), "run again"
                ) from None
        for name, target in self._request["links"]:
            link = self._toolkit_wheels() / name
            if not link.exists():
                link.symlink_to(target)
        marker.write_text(digest, encoding="ascii")

    def _interpreter(self) -> str:
        archive = self._request["archive"]
        if not archive:
            return str(self._request["python"])
        home = self._folder / "python"
        shutil.rmtree(str(home), ignore_errors=True)
        with tarfile.open(str(self._folder / "incoming" / archive)) as packed:
            packed.extractall(str(home))  # noqa: S202 (packed by the controller, its hash verified)
        return str(next(home.glob("*/bin/python3")))

    def _unpack(self) -> Path:
        source, marker = self._folder / "source", self._folder / "source" / ".complete"
        if not marker.is_file():
            shutil.rmtree(str(source), ignore_errors=True)
            with tarfile.open(str(self._folder / "incoming" / self._request["sdist"])) as packed:
                root = source.resolve()
                for member in packed.getmembers():
                    if root not in (root / member.name).resolve().parents and member.name != ".":
                        raise FailedError(f"the sdist has the unsafe path `{member.name}`", "do not use this source")
                packed.extractall(str(source))  # noqa: S202 (checked above)
            marker.touch()
        return next(path for path in sorted(source.iterdir()) if path.is_dir())

    def _environ(self, jobs: int) -> dict[str, str]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))}
        environ.update(self._request["environment"], MAX_JOBS=str(jobs), NO_COLOR="1", PYTHONUNBUFFERED="1")
        path = [str(self._env / "bin")]
        if self._request["cuda"]:
            home = self._request["cuda_home"] or str(self._toolkit_wheels())
            release = release_of(home + "/bin/nvcc")
            if release.split(".")[0] != self._request["cuda"].split(".")[0]:
                raise FailedError(
                    "nvcc in {} is CUDA {}, not {}".format(home, release or "(it does not run)", self._request["cuda"]),
                    "install that toolkit on the build host",
                )
            environ["CUDA_HOME"] = home
            path.append(home + "/bin")
        environ["PATH"] = os.pathsep.join([*path, environ.get("PATH", os.defpath)])
        if not run([str(self._env / "bin" / "ninja"), "--version"], self._log, environ, self._folder):
            raise FailedError("ninja does not run in the build environment", "see the log")
        return environ

    def _toolkit_wheels(self) -> Path:
        major: str = self._request["cuda"].split(".")[0]
        packages = next(self._env.glob("lib/python*/site-packages"))
        return packages / "nvidia" / ("cu" + str(major))


def _result(folder: Path) -> dict[str, Any] | None:
    """Return the result of an earlier run that was not fetched."""
    with contextlib.suppress(OSError, ValueError):
        result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        if Path(result["wheel"]).is_file():
            return result
    return None
