#!/usr/bin/python
"""Ansible module: the files of a gateway, checked by HAProxy before they are used."""

from __future__ import annotations

import os
import socket
import sys
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_file_sets import FileSet, is_unit, log_of, require_systemd
from ansible.module_utils.firstlight_host import HostError, differs, last_lines, read, run, write

ARGUMENTS = {
    "prefix": {"type": "path", "required": True},
    "gateway": {"type": "dict", "required": True},
    "timeout_s": {"type": "int", "default": 30},
}
CONFIG, CERTIFICATE = "haproxy.cfg", "certificate.pem"
RELOAD_S = 5.0
"""How long one reload is waited for: HAProxy's master loses a signal that comes while it ends the reload before."""


class Gateway(FileSet):
    """The gateway of one host."""

    def __init__(self, params):
        super().__init__(params["prefix"], "gateway", params["gateway"], params["timeout_s"])
        self.unit = os.path.basename(self.wanted["unit_path"])
        self.socket = f"/run/{self.unit.partition('.')[0]}/admin.sock"

    def live(self):
        """Return the name of the files that HAProxy runs with; None where it does not answer."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(self.socket)
                connection.sendall(b"get var proc.firstlight\n")
                answer = connection.recv(4096).decode()
        except OSError:
            return None
        return answer.partition("<")[2].partition(">")[0] or None

    def matches(self):
        """Return whether HAProxy runs with the new files, as they should be."""
        if self.live() != self.digest or read(self.wanted["unit_path"]) != self.wanted["unit"]:
            return False
        if not is_unit("enabled", self.unit):
            return False
        if self.wanted["self_signed"] and not os.path.exists(os.path.join(self.current, CERTIFICATE)):
            return False
        return not any(
            differs(os.path.join(self.current, name), text, self.mode(name)) for name, text in self.files().items()
        )

    def mode(self, name):
        return 0o600 if name in self.wanted["secret"] else 0o644

    def self_signed(self):
        """Return the self-signed certificate with its key; it is made again when its names change."""
        names = ",".join(self.wanted["self_signed"])
        path, names_path = os.path.join(self.folder, "self-signed.pem"), os.path.join(self.folder, "self-signed.names")
        if read(names_path) != names or read(path) is None:
            words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            words += ["-days", "3650", "-subj", "/CN=firstlight-gateway", "-addext", f"subjectAltName={names}"]
            # Key and certificate into one file, which openssl lets only its owner read.
            status, _out, said = run(*words, "-keyout", f"{path}.new", "-out", f"{path}.new")
            if status != 0:
                text = f"openssl made no certificate: {last_lines(said, 2)}"
                raise HostError(text, "give one: firstlight_gateway_certificate")
            os.replace(f"{path}.new", path)
            write(names_path, names)
        return read(path)

    def check(self, folder):
        """Raise HostError when HAProxy refuses the files in a folder."""
        status, _out, said = run("haproxy", "-c", "-f", os.path.join(folder, CONFIG))
        if status != 0:
            text = f"HAProxy refuses the gateway's files: {alerts(said)}"
            hint = "correct the setting that the message names, and run ./firstlight gateway again"
            raise HostError(text, f"what served before goes on; {hint}")

    def write_set(self, folder):
        """Write the new files into a folder that nobody else may enter."""
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        os.makedirs(folder, mode=0o700)
        for name, text in self.files().items():
            write(os.path.join(folder, name), text, self.mode(name))
        if self.wanted["self_signed"]:
            write(os.path.join(folder, CERTIFICATE), self.self_signed(), 0o600)
        # The shares of a rollout: HAProxy refuses files that name a map that is missing.
        shares = os.path.join(self.folder, "canary.map")
        if not os.path.exists(shares):
            write(shares, "", 0o600)

    def apply(self):
        """Run HAProxy with the new files, or leave it with those of before."""
        require_systemd("the gateway", "put another host into group `gateway`")
        before, name = self.take_fresh()
        self.write_units({self.wanted["unit_path"]: self.wanted["unit"]})
        self.stop_packaged(["haproxy.service"])
        self.remember_drained(os.path.join(self.folder, name))
        self.use(name)
        if not self.start():
            self.take_back(before)
        self.remove_others({name, before})

    def start(self):
        """Start or reload HAProxy; return whether it runs with the new files."""
        run("systemctl", "enable", self.unit)
        run("systemctl", "reset-failed", self.unit)
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            if run("systemctl", "reload-or-restart", self.unit, timeout_s=self.timeout_s)[0] != 0:
                return False
            # To its end, also beyond the deadline: listeners pause during a reload, and whoever asks then is refused.
            again = time.monotonic() + RELOAD_S
            while time.monotonic() < again:
                if self.live() == self.digest:
                    return True
                time.sleep(0.1)
        return False

    def remember_drained(self, folder):
        """Let HAProxy start with the hosts drained that are drained now, where the files in a folder have them."""
        status, _out, said = run(sys.executable, os.path.join(folder, "traffic.py"), "remember")
        if status != 0:
            hint = f"correct {self.folder}/drained.json on the host, or remove it: then no host is drained"
            raise HostError(f"which hosts are drained cannot be kept: {last_lines(said, 2)}", hint)

    def take_back(self, before):
        """Return to the files of before. Always raises HostError."""
        said = log_of(self.unit, 20)
        if before is not None:
            self.remember_drained(os.path.join(self.folder, before))
        self.use(before)
        if before is None:
            run("systemctl", "disable", "--now", self.unit)
        elif not is_unit("active", self.unit):
            run("systemctl", "restart", self.unit)
        hint = advice(said) or f"see its log on the host: journalctl -u {self.unit}"
        raise HostError(f"HAProxy did not start with the new files: {alerts(said)}", hint)


def advice(said):
    """Return what helps against an address that HAProxy cannot listen on, by its log; None where it says nothing of one."""
    # Its text for EADDRNOTAVAIL: behind NAT the address in the inventory, which metrics are offered on, is not the host's own.
    if "Cannot assign requested address" in said:
        return "the host lacks that address, as behind NAT: set firstlight_metrics_bind, or firstlight_gateway_bind if the gateway is to listen there"
    if "cannot bind" in said:
        return "end the program that listens there, or set firstlight_gateway_bind or firstlight_gateway_port"
    return None


def alerts(said):
    """Return what HAProxy says was wrong, the first three of these lines."""
    found = [line.partition(" : ")[2] or line for line in said.splitlines() if "ALERT" in line]
    return "; ".join(found[:3]) or last_lines(said, 3)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    gateway = Gateway(module.params)
    gateway.activate(module, {os.path.join(gateway.current, CONFIG): gateway.files()[CONFIG]})


if __name__ == "__main__":
    main()
