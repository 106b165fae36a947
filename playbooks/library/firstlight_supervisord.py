#!/usr/bin/python
"""Ansible module: supervisord, where a host has no systemd."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_supervisord
short_description: Start, restart or stop supervisord
description:
  - Manages the supervisord of an environment, for hosts without systemd.
  - It is started in a session of its own, with none of the caller's files and variables, so that it outlives the connection.
options:
  prefix:
    description: Absolute folder that holds everything of this product on the host.
    type: path
    required: true
  state:
    description:
      - With C(started) a supervisord whose program does not run is restarted.
      - C(restarted) always restarts it.
    type: str
    choices: [started, restarted, stopped]
    required: true
  program:
    description: Program under supervisord that must run.
    type: str
    default: firstlight-vllm
  timeout_s:
    description: Seconds that supervisord may take to start or to stop.
    type: int
    default: 90
author: Firstlight
"""

EXAMPLES = r"""
- name: Start supervisord
  firstlight_supervisord:
    prefix: /opt/firstlight
    state: started
"""

RETURN = r"""
actions:
  description: What was done, C(stopped) with the process ID and C(started).
  type: list
  elements: str
  returned: always
"""

import os
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["started", "restarted", "stopped"], "required": True},
    "program": {"type": "str", "default": "firstlight-vllm"},
    "timeout_s": {"type": "int", "default": 90},
}


class Supervisord:
    """supervisord of one installation, and its client."""

    def __init__(self, module):
        self._module = module
        prefix = module.params["prefix"]
        self._prefix = prefix
        self._config = os.path.join(prefix, "etc", "supervisord.conf")
        self._bin = os.path.join(prefix, "current", "bin")
        # The environment that is active by now may have no supervisor.
        if not os.access(os.path.join(self._bin, "supervisorctl"), os.X_OK):
            self._bin = os.path.join(prefix, "previous", "bin")
        self.actions = []

    def _control(self, *words):
        """Return what supervisorctl prints; empty where it cannot be run."""
        command = [os.path.join(self._bin, "supervisorctl"), "-c", self._config, *words]
        settings = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=settings, check=False)
        except OSError:
            return ""
        return done.stdout.decode(errors="replace")

    def pid(self):
        """Return the process ID; None where it does not run."""
        answer = self._control("pid").strip()
        return int(answer) if answer.isdigit() and answer != "0" else None

    def _wait(self, *, running):
        """Return whether supervisord answers, or no longer does, within the time allowed."""
        deadline = time.monotonic() + self._module.params["timeout_s"]
        while (self.pid() is not None) != running:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        return True

    def stop(self):
        pid = self.pid()
        if pid is None:
            return
        self.actions.append(f"stopped {pid}")
        if self._module.check_mode:
            return
        self._control("shutdown")
        if not self._wait(running=False):
            seconds = self._module.params["timeout_s"]
            text = f"supervisord (PID {pid}) still runs {seconds} s after it was asked to stop"
            self._module.fail_json(msg=text, hint=f"see what holds it: ps --ppid {pid}")
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.1)

    def start(self):
        if self.pid() is not None and not self.actions:
            # A program that failed, or waits for its next start, is restarted.
            if " RUNNING " in self._control("status", self._module.params["program"]):
                return
            self.stop()
        self.actions.append("started")
        if self._module.check_mode:
            return
        log = os.path.join(self._prefix, "logs", "supervisord.start.log")
        command = [os.path.join(self._bin, "supervisord"), "-c", self._config]
        settings = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.path.join(self._prefix, "home"),
            "LC_ALL": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with open(log, "wb") as file:
            subprocess.run(
                ["setsid", "-f", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=settings,
                check=False,
            )
        if not self._wait(running=True):
            with open(log, encoding="utf-8", errors="replace") as file:
                tail = " ".join(file.read().splitlines()[-2:])
            text = f"supervisord did not start within {self._module.params['timeout_s']} s: {tail}"
            self._module.fail_json(msg=text, hint=f"try it on the host: {command[0]} -n -c {self._config}")


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    supervisord = Supervisord(module)
    if module.params["state"] != "started":
        supervisord.stop()
    if module.params["state"] != "stopped":
        supervisord.start()
    module.exit_json(changed=bool(supervisord.actions), actions=supervisord.actions)


if __name__ == "__main__":
    main()
