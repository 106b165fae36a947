"""Program: reads inventories with `ansible-inventory --list` and with the product's reader; one start for all, as each takes a second."""

# mypy: disable-error-code="import-untyped"
import contextlib
import io
import json
import multiprocessing
import sys
from typing import Any

from ansible.cli.inventory import InventoryCLI
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader

from provision.fleet.inventory import ansible_reader


def listed(source: str) -> Any:
    """Return what `ansible-inventory --list` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        InventoryCLI(["ansible-inventory", "-i", source, "--list"]).run()
    return json.loads(printed.getvalue())


def read(source: str) -> Any:
    """Return what the product reads."""
    return ansible_reader.read(source, None)


def main() -> None:
    """Print what both say of the sources, which stdin gives by name; each in a process of its own, as Ansible takes passwords once."""
    sources: dict[str, str] = json.load(sys.stdin)
    # The processes find loaded what they have in common.
    init_plugin_loader()
    InventoryManager(loader=DataLoader(), sources=["localhost,"])
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        of_both = [pool.map(reader, sources.values(), chunksize=1) for reader in (listed, read)]
    sys.stdout.write(json.dumps(dict(zip(sources, zip(*of_both, strict=True), strict=True))))


if __name__ == "__main__":
    main()
