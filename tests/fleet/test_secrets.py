"""An installation on a real host with secrets around it: no record, argument or unit shows one, not even for a moment."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from benchmarks.security_cases.rows import arguments_of_processes
from tests.fleet.hosts import SUDO_WITH_PASSWORD, FleetHost
from tests.install.fleet_site import make_fleet_site

CALLER = "hf_Vx3Caller8Wd2Rk9Lp5"
UNIT = "/etc/systemd/system/firstlight-vllm.service"
WATCH = """
rm -f /run/argv; touch /run/watching
while [ -e /run/watching ]; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | sort -u >> /run/argv; sleep 0.05; done
"""


@contextmanager
def watched(host: FleetHost) -> Iterator[set[str]]:
    """Collect the arguments of every process, here and on the host, while the block runs."""
    there = threading.Thread(target=host.sh, args=(WATCH,), kwargs={"timeout_s": 600})
    with arguments_of_processes() as seen:
        there.start()
        try:
            yield seen
        finally:
            host.sh("rm -f /run/watching")
            there.join()
            seen.update(host.sh("cat /run/argv").splitlines())


def test_no_secret_in_records_arguments_or_units(
    pair: list[FleetHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = pair[1]
    monkeypatch.setenv("HF_TOKEN", CALLER)
    site = make_fleet_site(tmp_path, host, user=SUDO_WITH_PASSWORD, become_password=SecretStr(host.admin_password))
    site.send()
    try:
        with watched(host) as arguments:
            result = site.play()
        assert (result.status, result.changed) == ("ok", True), result
        # on both machines something was seen: the playbook here, the installed programs there
        assert any("ansible-playbook" in argument for argument in arguments)
        assert any(argument.startswith("/opt/firstlight/") for argument in arguments)
        key = host.sh("sed -n s/^VLLM_API_KEY=//p /opt/firstlight/etc/service.env").strip()
        assert len(key) >= 16
        secrets = {"sudo password": host.admin_password, "caller's token": CALLER, "API key": key}
        texts = {str(path): path.read_text() for path in site.latest.folder.rglob("*") if path.is_file()}
        assert any(name.endswith("changes.jsonl") for name in texts)
        texts |= {
            "the arguments of a process": "\n".join(arguments),
            "the unit": host.sh(f"cat {UNIT}"),
            "the journal": host.sh("journalctl --no-pager -o cat"),
            "progress": "\n".join(site.progress),
        }
        for where, text in texts.items():
            for kind, secret in secrets.items():
                assert secret not in text, f"the {kind} is in {where}"
        holding = host.sh(f"grep -rlF -e '{key}' -e '{CALLER}' /opt/firstlight /etc/systemd /run/systemd || true")
        assert holding.split() == ["/opt/firstlight/etc/service.env"]
        assert host.sh("stat -c '%a %U' /opt/firstlight/etc/service.env").split() == ["600", "root"]
    finally:
        site.play("uninstall")
