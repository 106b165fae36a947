"""hosts.yml of a run that ends with staged files: what playbooks by hand install from."""

from pathlib import Path
from typing import Any

import yaml

from provision.core.models.stack import DriverPlan
from provision.core.run_folder import HOSTS_FILE
from provision.run.playbooks import write_inventory
from provision.run.results import StagedHosts
from tests.pipeline.local_context import local_context
from tests.pipeline.test_up_to_date import STACK, host_facts, make_desired, staged_file, staged_of

IMAGE = "0" * 64


def written(folder: Path, *, os_id: str = "debian", **stack: Any) -> dict[str, Any]:
    """Return the hosts of the inventory that a run of one host writes."""
    image = staged_file(f"image-{IMAGE}.tar", "image")
    desired = make_desired(folder).model_copy(update={"image": image})
    model = staged_file("config.json", "model")
    staged = staged_of(folder, model, image, hosts=("a",), stack=STACK.model_copy(update=stack))
    system = host_facts().os.model_copy(update={"id": os_id, "machine": "x86_64"})
    context = local_context(folder, "a")
    context.result = StagedHosts(facts={"a": host_facts(os=system)}, staged={"a": staged}, desired={"a": desired})
    write_inventory(context)
    path = context.run.path(HOSTS_FILE)
    hosts: dict[str, Any] = yaml.safe_load(path.read_text())["all"]["hosts"] if path.exists() else {}
    return hosts


def test_it_names_each_file_with_what_it_makes(tmp_path: Path) -> None:
    variables = written(tmp_path)["a"]
    environment = "/opt/firstlight/envs/e1/.complete"
    assert variables["firstlight_files"] == [
        {"name": "torch-2.13.0.whl", "path": "/cache/torch-2.13.0.whl", "size": 100, "makes": environment},
        {"name": "uv", "path": "/cache/uv", "size": 100, "makes": environment},
        {"name": "libnuma1.deb", "path": "/cache/libnuma1.deb", "size": 100, "makes": environment},
        {
            "name": "config.json",
            "path": "/cache/config.json",
            "size": 100,
            "makes": f"/opt/firstlight/models/{variables['firstlight_model']['folder']}/config.json",
        },
        {
            "name": f"image-{IMAGE}.tar",
            "path": f"/cache/image-{IMAGE}.tar",
            "size": 100,
            "makes": f"/var/lib/containers/storage/overlay-images/{IMAGE}",
        },
    ]
    assert variables["firstlight_environment"]["digest"] == "e1"


DRIVER = DriverPlan(action="install", version="580.95.05", module="open", source="vendor")


def test_it_has_the_drivers_that_the_plan_installs(tmp_path: Path) -> None:
    assert written(tmp_path, driver=DRIVER)["a"]["firstlight_driver"]["version"] == "580.95.05"


def test_a_host_whose_drivers_cannot_be_installed_is_left_out(tmp_path: Path) -> None:
    assert written(tmp_path, os_id="alpine", driver=DRIVER) == {}
