"""A whole flash-attn wheel of the wheel builder: installed with the newest CUDA set on a host that shows B200 cards, and loaded there.

    ./firstlight wheels build flash-attn==2.8.3.post2 --torch 2.13.0 --arch 10.0 --python 3.11     # 3 hours of one core
    .venv/bin/python -m benchmarks.wheel_load

The host is the suite's (tests/fleet/cards.py): real CUDA builds and the driver's real user libraries, no card. The suite installs and loads the
same set without the package, since the build takes longer than all of its tests. Nothing is timed, so the result is always kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.machine import header, publish, say
from provision.core.folders import cache_folder
from provision.phases.stage.builds.build_cache import BuildCache, BuiltWheel
from provision.phases.stage.builds.build_key import FLASH_ATTN
from provision.phases.stage.wheelhouse import Store
from tests.fleet.cards import boot_with_cards
from tests.fleet.command_runner import ROOT, CommandRunner
from tests.fleet.hosts import FleetHost
from tests.fleet.serving import PREFIX

RECORDING, CARD = "b200-8", "100"
LOADER = (ROOT / "tests/fleet/extensions.py").read_text(encoding="utf-8")
LOADING_S = 900


def newest_build(cache: Path) -> BuiltWheel:
    """Return the flash-attn wheel with code for the card that was built last. Ends the program if there is none."""
    found = [one for one in BuildCache(Store(cache)) if one.key.name == FLASH_ATTN and CARD in one.codes]
    if not found:
        sys.exit(f"error: no flash-attn wheel for sm_{CARD} in `{cache}`\n\nhint: build it with the command above")
    return max(found, key=lambda one: one.built_at)


def copied(built: BuiltWheel, cache: Path, folder: Path) -> None:
    """Put the wheel alone into another cache, so that nothing else is taken from the first one."""
    store = Store(folder)
    source = Store(cache).find(built.sha256, built.name)
    if source is None:
        sys.exit(f"error: the wheel `{built.name}` is damaged or gone\n\nhint: build it again")
    store.add(source, name=built.name, sha256=built.sha256)
    BuildCache(store).put(built)


def loaded(host: FleetHost, built: BuiltWheel, scratch: Path) -> dict[str, Any]:
    """Provision the host with the package, and load every extension of its environment.

    No card answers, so the run ends red by one check; what counts is that the package was installed, and what loads.
    """
    inventory = str(host.inventory(scratch, firstlight_builder="controller"))
    ended = CommandRunner(scratch / "logs")("provision", "-i", inventory, "--vllm", "latest", "--flash-attn", "package")
    summary = ended.host(host.name)
    environment = host.sh(f"ls -d {PREFIX}/envs/[0-9a-f]* || true").strip()
    if not environment:
        sys.exit(f"error: nothing was installed\n{ended.output()}")
    (host.machine.root / "root/extensions.py").write_text(LOADER, encoding="utf-8")
    printed = host.sh(f"{environment}/bin/python -I /root/extensions.py 2>/dev/null", timeout_s=LOADING_S)
    answer = json.loads(printed.splitlines()[-1])
    outcome = answer["outcome"]
    own = {name: problem for name, problem in outcome.items() if name.startswith(("flash_attn", "flash-attn"))}
    return {
        "wheel": {"name": built.name, "size": built.size, "sha256": built.sha256, "codes": list(built.codes)},
        "package": summary["stack"]["flash_attn"]["package"],
        "torch": answer["torch"],
        "phases": {name: phase["status"] for name, phase in summary["phases"].items()},
        "failed_checks": [check["id"] for check in summary["checks"] if check["status"] == "fail"],
        "loaded": sorted(name for name, problem in own.items() if not problem),
        "extensions": len(outcome),
        "problems": {name: problem for name, problem in outcome.items() if problem},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="cache that has the built wheel")
    cache = parser.parse_args().cache
    built = newest_build(cache)
    say(f"{built.name}, built {built.built_at}")
    result = header("wheel_load")
    with hosts_to_boot() as fleet, tempfile.TemporaryDirectory(prefix="firstlight-", dir=fleet.disk) as scratch:
        os.environ["FIRSTLIGHT_CACHE"] = f"{scratch}/cache"
        copied(built, cache, Path(scratch) / "cache")
        result |= loaded(boot_with_cards(fleet, RECORDING), built, Path(scratch))
    result["aim"] = {
        "met": any(name.startswith("flash_attn_2_cuda") for name in result["loaded"]) and not result["problems"]
    }
    publish(result, "wheel_load", always=True)
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
