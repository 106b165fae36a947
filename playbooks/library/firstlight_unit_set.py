#!/usr/bin/python
"""Ansible module: units and the files that they run with, checked before they are used."""

from __future__ import annotations

import os
import pwd
import re
import time
import urllib.error
import urllib.request

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_file_sets import FileSet, is_unit, log_of, require_systemd
from ansible.module_utils.firstlight_host import HostError, last_lines, read, run, write

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "unit_set": {"type": "dict", "required": True},
    "timeout_s": {"type": "int", "default": 60},
}
FOLDER = "/etc/systemd/system"
ANSWER_S = 5.0


class UnitSet(FileSet):
    """The units of one purpose on this host, and their files."""

    def __init__(self, params):
        super().__init__(params["prefix"], params["unit_set"]["name"], params["unit_set"], params["timeout_s"])
        self.units = {os.path.join(FOLDER, name): text for name, text in self.wanted["units"].items()}
        self.running = [name for name, text in self.wanted["units"].items() if "\n[Install]\n" in text]

    def matches(self):
        """Return whether the units run with the new files already."""
        if not os.path.islink(self.current) or not os.path.isdir(self.current):
            return False
        found = {name: read(os.path.join(self.current, name)) for name in os.listdir(self.current)}
        if found != self.files() or any(read(path) != text for path, text in self.units.items()):
            return False
        if self.unproven():
            return False
        return all(is_unit(state, name) for state in ("enabled", "active") for name in self.running)

    def unproven(self):
        """Return the first command that does not find what the units set up; None when all do."""
        commands = [proof["command"] for proof in self.wanted["proofs"]]
        return next((f"`{' '.join(command)}` fails" for command in commands if run(*command)[0] != 0), None)

    def require_free_ports(self):
        """Raise HostError when a program that is none of these units listens on a port of theirs, at any address."""
        mine = [run("systemctl", "show", "--property=MainPID", "--value", name)[1].strip() for name in self.running]
        for port in self.wanted["ports"]:
            said = run("ss", "-Hltnp", f"sport = :{port}")[1]
            for program, pid in re.findall(r'\("([^"]+)",pid=(\d+)', said):
                if pid not in mine:
                    raise HostError(
                        f"`{program}` (process {pid}) listens on port {port} already",
                        "end that program, or set another port: docs/reference/inventory.md names the settings",
                    )

    def write_set(self, folder):
        """Write the new files into a folder that the account may read, and nobody else."""
        group = self.account().pw_gid
        os.makedirs(self.folder, exist_ok=True)
        os.chmod(self.folder, 0o755)
        os.makedirs(folder)
        for name, text in self.files().items():
            write(os.path.join(folder, name), text, 0o640)
            os.chown(os.path.join(folder, name), 0, group)
        os.chown(folder, 0, group)
        os.chmod(folder, 0o750)

    def account(self):
        try:
            return pwd.getpwnam(self.wanted["account"])
        except KeyError:
            name = self.wanted["account"]
            hint = f"see whether they are installed, and whether `getent passwd {name}` names it"
            raise HostError(f"there is no account `{name}`, which the operating system's packages make", hint) from None

    def check(self, folder):
        """Raise HostError when a program refuses the files in a folder."""
        for check in self.wanted["checks"]:
            status, _out, said = run("env", "-C", folder, *check["command"])
            if status != 0:
                text = f"`{' '.join(check['command'])}` refuses the new files: {last_lines(said, 4)}"
                hint = "correct the setting that the message names, and run the command again"
                raise HostError(text, f"what ran before goes on; {hint}")

    def apply(self):
        """Run the units with the new files, or leave them with those of before."""
        require_systemd("the units", "choose another host for this")
        self.stop_packaged(self.wanted["packaged"])
        self.require_free_ports()
        before, name = self.take_fresh()
        account = self.account()
        for data in self.wanted["data"]:
            path = os.path.join(self.folder, data)
            os.makedirs(path, exist_ok=True)
            os.chown(path, account.pw_uid, account.pw_gid)
        units = {path: read(path) for path in self.units}
        self.use(name)
        self.write_units(self.units)
        changed = [os.path.basename(path) for path, text in self.units.items() if units[path] != text]
        problem = self.start(changed)
        if problem:
            self.take_back(before, units, problem)
        self.remove_others({name, before, *self.wanted["data"]})

    def start(self, changed):
        """Start the units; return what is wrong with them, None when all answer."""
        for name in self.running:
            run("systemctl", "enable", name)
            run("systemctl", "reset-failed", name)
            run("systemctl", "restart" if name in changed else "reload-or-restart", name)
        deadline = time.monotonic() + self.timeout_s
        while True:
            problem = next(filter(None, map(self.problem_of, self.wanted["ready"])), None) or self.unproven()
            failed = [name for name in self.running if not is_unit("active", name)]
            if problem is None and not failed:
                return None
            if time.monotonic() > deadline:
                said = "".join(log_of(name, 4) for name in failed)
                return f"{', '.join(failed)}: {last_lines(said, 3)}" if failed else problem
            time.sleep(0.3)

    @staticmethod
    def problem_of(url):
        """Return why an address does not answer 200; None when it does."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=ANSWER_S):
                return None
        except (OSError, ValueError) as error:
            return f"{url}: {error}"

    def take_back(self, before, units, problem):
        """Return to files and units of before. Always raises HostError."""
        kept = [name for name in self.running if units[os.path.join(FOLDER, name)] is not None]
        for name in set(self.running) - set(kept):
            run("systemctl", "disable", "--now", name)
        self.write_units(units)
        self.use(before)
        for name in kept:
            run("systemctl", "restart", name)
        text = f"the new files are not used, since not all units answered with them: {problem}"
        raise HostError(text, f"see the logs on the host: journalctl -u {self.running[0]}{self.wanted.get('hint', '')}")


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    units = UnitSet(module.params)
    new = {os.path.join(units.current, name): text for name, text in units.files().items()}
    units.activate(module, {**new, **units.units})


if __name__ == "__main__":
    main()
