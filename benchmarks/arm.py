"""Hosts of Arm, emulated: how far does each scenario carry with the real aarch64 wheels?

    .venv/bin/python -m benchmarks.arm [--only gh200 torch cpu]

Each scenario boots a bare arm64 Debian, whose programs qemu-user runs (Debian's package qemu-user-static), and types what a user types:

    gh200   a host that shows a recorded GH200 and has the driver's user libraries: `provision` of the newest CUDA combination, every
            extension loaded, `install` again, `uninstall`. There is no card to compute on, so that verify reports its absence
    torch   a host without a GPU: `provision` of torch alone with its checks, `provision` again, `uninstall`
    cpu     a host without a GPU: `provision` of a CPU build up to a verified token, `provision` again, `uninstall`

Each step is stored at once, with its seconds; after a failed step only `uninstall` follows. Emulated seconds are none of real Arm.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.harness import RESULTS, ROOT, header, parser, say, timed
from provision.core.models.settings import Settings
from provision.features.catalog_refresh.proof import LOADER, conclusion
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from tests.fleet.cards import ARM_RECORDING, boot_arm, environment_of, recorded, show
from tests.fleet.emulation import ARM64, why_not
from tests.fleet.hosts import Fleet, FleetHost
from tests.fleet.layers import DRIVER_LIBRARIES
from tests.fleet.serving import PREFIX

RESULT = RESULTS / "arm.json"
DRIVER = "580.178.04"
"""Of the shown card: the recorded one is older than the newest combination wants."""
CPU_RELEASE, CPU_TORCH = "0.19.1", "2.10.0"
"""The newest of which every wheel for aarch64 is in the main index."""
CARDS = ("GH200", "GB10")
HOST = "os=debian-12 python=3.11 arch=aarch64 glibc=2.36 ram=120 disk=500"
LIMIT_S = 3 * 3600.0
LOADING_S = 3600.0
GREEN = {"ok", "skip"}


@dataclass
class Scenario:
    """One scenario: what is asked, and the rows of its steps so far."""

    name: str
    host: FleetHost
    folder: Path
    steps: list[dict[str, Any]] = field(default_factory=list)

    def command(self, *words: str) -> dict[str, Any]:
        """Run a command on the host's inventory; note and return what its summary says."""
        logs = self.folder / "logs"
        inventory = self.host.inventory(self.folder)
        done = timed(
            [sys.executable, "-m", "provision", words[0], "-i", inventory, *words[1:]],
            environment={"PYTHONPATH": str(ROOT), "FIRSTLIGHT_LOGS": str(logs), "TERM": "dumb"},
            limit_s=LIMIT_S,
        )
        summary = json.loads((logs / "latest" / "summary.json").read_text(encoding="utf-8"))
        found = next(host for host in summary["hosts"] if host["name"] == self.host.name)
        checks = found.get("checks") or []
        row = {
            "command": " ".join(words),
            "exit": done.code,
            "seconds": round(done.seconds, 1),
            "state": found["state"],
            "changed": summary.get("changed"),
            "phases": {
                name: {key: phase[key] for key in ("status", "seconds", "text") if phase.get(key)}
                for name, phase in found["phases"].items()
            },
            "checks": {
                status: sum(check["status"] == status for check in checks)
                for status in sorted({check["status"] for check in checks})
            },
            "not_ok": {check["id"]: check["reason"] for check in checks if check["status"] not in GREEN},
        }
        if stack := found.get("stack"):
            row["vllm"], row["torch"] = (
                f"{stack[name]['version']} {stack[name]['variant']}" if stack.get(name) else None
                for name in ("vllm", "torch")
            )
        self.note(row)
        return row

    def note(self, row: dict[str, Any]) -> None:
        self.steps.append(row)
        say(f"{self.name}: {json.dumps(row)}")
        keep(self)


def keep(scenario: Scenario) -> None:
    """Store what is known of a scenario, in place of an earlier one of its name."""
    before = json.loads(RESULT.read_text(encoding="utf-8"))["scenarios"] if RESULT.exists() else {}
    result = header("arm") | {
        "emulator": command_line("qemu-aarch64-static", "--version").splitlines()[0],
        "planned": {card: planned(card) for card in CARDS},
        "scenarios": {**before, scenario.name: scenario.steps},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def planned(card: str) -> str:
    """Return the set that the plan chooses for a card: what was tried for one holds for another with the same."""
    facts = parse_what_if(f"gpu={card}x1 driver={DRIVER} {HOST}")
    [resolution] = choose_stacks({facts.host: facts}, {facts.host: Settings()}).classes
    return resolution.candidates[0].id


def command_line(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def boot_gh200(fleet: Fleet) -> FleetHost:
    host = boot_arm(fleet, DRIVER_LIBRARIES)
    show(host, recorded(ARM_RECORDING), driver=DRIVER)
    return host


def gh200(scenario: Scenario) -> None:
    first = scenario.command("provision")
    if first["phases"].get("install", {}).get("status") == "ok":
        load(scenario)
        scenario.command("install")
    remove(scenario)


def load(scenario: Scenario) -> None:
    """Load every extension of the environment as for the table of tested combinations; note their number by package, or the error."""
    host, started = scenario.host, time.perf_counter()
    shutil.copy(LOADER, host.machine.root / "root/load_set.py")
    python = f"timeout {LOADING_S:.0f} {environment_of(host)}/bin/python -IB"
    code = int(host.sh(f"cd /root; {python} load_set.py vllm cuda >out 2>err; echo $?", timeout_s=LOADING_S + 60))
    out, err = ((host.machine.root / "root" / name).read_text(encoding="utf-8") for name in ("out", "err"))
    row: dict[str, Any] = {"command": "load every extension", "seconds": round(time.perf_counter() - started, 1)}
    if code:
        scenario.note(row | {"error": conclusion(out, err, code)})
    else:
        found = json.loads(out.splitlines()[-1])
        scenario.note(
            row | {"torch": found["torch"], "loaded": {name: len(modules) for name, modules in found["loaded"].items()}}
        )


def torch(scenario: Scenario) -> None:
    twice(scenario, "--vllm", "none", "--set", f"torch={CPU_TORCH}")


def cpu(scenario: Scenario) -> None:
    twice(scenario, "--vllm", CPU_RELEASE)


def twice(scenario: Scenario, *asked: str) -> None:
    """Provision a host, again if that was green, and uninstall."""
    if scenario.command("provision", *asked)["exit"] == 0:
        scenario.command("provision", *asked)
    remove(scenario)


def remove(scenario: Scenario) -> None:
    """Uninstall, and note what is left below the prefix."""
    row = scenario.command("uninstall")
    row["left"] = scenario.host.sh(f"ls -d {PREFIX} /var/tmp/firstlight* 2>/dev/null; true", timeout_s=300).split()
    keep(scenario)


SCENARIOS = {"gh200": (boot_gh200, gh200), "torch": (boot_arm, torch), "cpu": (boot_arm, cpu)}
"""How each host is booted, and the steps on it."""


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", default=list(SCENARIOS), choices=list(SCENARIOS))
    names = options.parse_args().only
    if reason := why_not(ARM64):
        sys.exit(f"error: {reason}")
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory(prefix="firstlight-") as scratch:
        for name in names:
            started = time.perf_counter()
            boot, steps = SCENARIOS[name]
            host = boot(fleet)
            scenario = Scenario(name, host, Path(scratch, name))
            scenario.note({"command": "boot", "seconds": round(time.perf_counter() - started, 1)})
            steps(scenario)
            host.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
