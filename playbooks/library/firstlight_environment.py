#!/usr/bin/python
"""Ansible module: the environment of a lock, built offline next to the live one."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import tempfile
import time
from subprocess import DEVNULL, Popen

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_host import HostError, last_lines, locked, read, run, take_turn

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "incoming": {"type": "path", "required": True},
    "environment": {"type": "dict", "required": True},
    "programs": {"type": "dict", "required": True},
    "lock_timeout_s": {"type": "int", "default": 900},
}
UV_SETTINGS = {
    # No settings of the host's users.
    "PYTHONPATH": None,
    "PYTHONHOME": None,
    "VIRTUAL_ENV": None,
    "UV_NO_CONFIG": "1",
    "UV_OFFLINE": "1",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "UV_LINK_MODE": "hardlink",
}
PACKAGE_FOLDERS = 'import sysconfig; print(*dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))), sep="\\n")'
SHARES_PACKAGES = re.compile("^include-system-site-packages *= *true", re.MULTILINE | re.IGNORECASE)
"""Of pyvenv.cfg: an environment that is made from this one by uv's option for it gets the packages too."""


class Build:
    """The environment of one lock, and the steps that build it."""

    def __init__(self, parameters):
        self._asked, self._programs = parameters["environment"], parameters["programs"]
        interpreter = self._asked["interpreter"]
        self._given, self._archive = interpreter.get("path") or "", interpreter.get("archive")
        self._torch = interpreter.get("torch")
        self._prefix, self._incoming = parameters["prefix"], parameters["incoming"]
        self.digest, self._lock_timeout_s = self._asked["digest"], parameters["lock_timeout_s"]
        self._envs = os.path.join(self._prefix, "envs")
        self.path = os.path.join(self._envs, self.digest)
        self._python = os.path.join(self.path, "bin", "python")
        self._uv = os.path.join(self._prefix, "bin", "uv")
        self._turn = None
        self.output = ""

    def is_complete(self):
        """Return whether the environment was completed for this lock and its Python still runs."""
        return (
            f'"digest": "{self.digest}"' in (read(os.path.join(self.path, ".complete")) or "")
            and read(os.path.join(self.path, "lock.txt")) == self._asked["lock"]
            and self._run(self._python, "-I", "-c", "")[0] == 0
        )

    def make(self):
        """Build the environment, or resume its compilation. Return whether it was built."""
        self._turn = take_turn(os.path.join(self._envs, ".lock"), self._lock_timeout_s)
        built = not self.is_complete()
        if built:
            self._build()
        else:
            self._compile()
            # A power cut can end the removal of a finished build's cache; nobody else builds now.
            for left in self._caches():
                start("rm", "-rf", "--", left)
        # Installed, the wheels and the archive would only hold the space a second time.
        spent = glob.glob(os.path.join(glob.escape(self._incoming), "*.whl"))
        if self._archive:
            spent.append(os.path.join(self._incoming, self._archive))
        for path in spent:
            with contextlib.suppress(OSError):
                os.unlink(path)
        return built

    def _run(self, *words, **options):
        # A program that outlives this module keeps the turn: the next run waits until it has ended.
        return run(*words, pass_fds=() if self._turn is None else (self._turn,), **options)

    def _caches(self):
        return glob.glob(os.path.join(glob.escape(self._envs), ".cache.*"))

    def _remove(self, *paths):
        status, _out, said = self._run("rm", "-rf", "--", *paths)
        if status:
            raise HostError(f"{' and '.join(paths)} cannot be removed", None, said)

    def _need(self, name):
        """Return the path of a sent file."""
        path = os.path.join(self._incoming, name)
        if not os.path.isfile(path):
            hint = "run ./firstlight provision: it sends what is missing"
            raise HostError(f"file {name} is not in {self._incoming}", hint)
        return path

    def _install_uv(self):
        if not os.path.isfile(os.path.join(self._incoming, self._asked["uv"])) and os.access(self._uv, os.X_OK):
            return
        shutil.copyfile(self._need(self._asked["uv"]), f"{self._uv}.new")
        os.chmod(f"{self._uv}.new", 0o755)
        os.replace(f"{self._uv}.new", self._uv)

    def _place_interpreter(self):
        """Return the interpreter's path. A sent one is unpacked under another name and renamed."""
        if not self._archive:
            return self._given
        home = os.path.join(self._prefix, "python", self._archive.partition(".tar.")[0])
        python = os.path.join(home, "bin", "python3")
        if self._run(python, "-I", "-c", "")[0]:
            words = ["tar", "-xf", self._need(self._archive), "-C", f"{home}.new"]
            self._remove(home, f"{home}.new")
            os.makedirs(f"{home}.new")
            status, _out, said = self._run(*words, "--strip-components=1", "--no-same-owner")
            if status:
                raise HostError(f"interpreter archive {self._archive} cannot be unpacked", None, said)
            os.replace(f"{home}.new", home)
        return python

    def _build(self):
        self._install_uv()
        python = self._place_interpreter()
        self._remove(self.path, *self._caches())
        # On the file system of the environment, so that uv can link what it unpacks.
        cache = tempfile.mkdtemp(prefix=".cache.", dir=self._envs)
        try:
            self._fill(python, cache)
        finally:
            # Unlinking tens of thousands of files can take seconds that nobody needs to wait for.
            start("rm", "-rf", cache)

    def _fill(self, python, cache):
        asked, kept = self._asked, os.path.join(self.path, "lock.txt")
        # A virtual environment passes the question for packages of the interpreter to the Python below it.
        virtual = read(os.path.join(python.rpartition("/bin/")[0], "pyvenv.cfg"))
        shares = self._torch and (virtual is None or SHARES_PACKAGES.search(virtual))
        options = ["--system-site-packages"] if shares else []
        what = f"create environment {self.digest}"
        self._use_uv(cache, what, "venv", "--quiet", "--no-project", *options, "--python", python, self.path)
        if self._torch and virtual is not None:
            # A file that Python reads at its start puts the virtual environment's packages behind those of the lock.
            own = self._ask(PACKAGE_FOLDERS).splitlines()[0]
            store(os.path.join(own, "_firstlight_torch.pth"), self._run(python, "-I", "-c", PACKAGE_FOLDERS)[1])
        store(kept, asked["lock"])
        store(os.path.join(self.path, "stack.json"), json.dumps(asked["stack"]) + "\n")
        self._install_lines(cache)
        # uv lets everybody write its lock file, whatever the umask is; nothing else installs into this folder.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, ".lock"))
        self._ask(self._programs["manifest"], kept, self._incoming)
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        marker = os.path.join(self.path, ".complete")
        self._compile()
        store(f"{marker}.new", json.dumps({"digest": self.digest, "at": at, "interpreter": python}) + "\n")
        os.replace(f"{marker}.new", marker)

    def _use_uv(self, cache, what, *words):
        status, _out, said = self._run(self._uv, *words, settings={**UV_SETTINGS, "UV_CACHE_DIR": cache})
        self.output += said
        if status:
            hint = "what uv says stands above; run ./firstlight provision to send missing or damaged files anew"
            raise HostError(f"uv could not {what}", hint, self.output)

    def _install_lines(self, cache):
        """Install the lock: first what may bring its requirements, then the distributions that go in last."""
        last, lines = self._asked["last"], self._asked["lock"].splitlines(keepends=True)
        file = os.path.join(cache, "lock.txt")
        places = ["--no-index", "--find-links", self._incoming, "--require-hashes", "--python", self._python]
        store(file, "".join(line for line in lines if line.partition("==")[0] not in last))
        what = f"install the lock of environment {self.digest}"
        self._use_uv(cache, what, "pip", "sync", file, *places)
        if last:
            # Without its own requirements it cannot bring another torch.
            store(file, "".join(line for line in lines if line.partition("==")[0] in last))
            what = f"install {' '.join(last)} into environment {self.digest}"
            self._use_uv(cache, what, "pip", "install", "--no-deps", "--requirements", file, *places)

    def _ask(self, program, *arguments):
        """Return what a program prints that the environment's own Python runs."""
        status, out, said = self._run(self._python, "-I", "-c", program, *arguments)
        if status:
            raise HostError(last_lines(said, 1), None, said)
        return out.strip()

    def _compile(self):
        """Compile the byte code in the background: an environment is complete without it.

        The compiling process locks `.compiling`; verify sees by it that the list of the byte code is under way.
        """
        if os.path.exists(os.path.join(self.path, "bytecode.txt")):
            return
        lock = os.open(os.path.join(self.path, ".compiling"), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            if locked(lock):
                start(self._python, "-I", "-c", self._programs["warm"], pass_fds=(lock,))
        finally:
            os.close(lock)


def start(*words, pass_fds=()):
    """Start a program that outlives this module."""
    quiet = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
    Popen(words, start_new_session=True, pass_fds=pass_fds, **quiet)


def store(path, text):
    """Write a file below a folder that is not complete. Not flushed to the disk: that would wait for all wheels."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)
    build = Build(module.params)
    try:
        built = not build.is_complete() if module.check_mode else build.make()
    except HostError as error:
        module.fail_json(msg=str(error), hint=error.hint, stderr=error.output)
    except OSError as error:
        module.fail_json(msg=f"environment {build.digest} cannot be built: {error}", stderr=build.output)
    paths = [build.path] if built else []
    module.exit_json(changed=built, paths=paths, stderr=build.output)


if __name__ == "__main__":
    main()
