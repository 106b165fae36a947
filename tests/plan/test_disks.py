"""The plan checks the disk of the installation."""

import re

import pytest

from provision.core.models.facts import Disk, Installed, User
from provision.phases.plan.explain import render
from provision.phases.plan.what_if import parse_what_if
from tests.family.models import LLAMA
from tests.plan.planned import model_of, plan_of, refusing, resolve

GIB = 1 << 30
FACTS = parse_what_if("gpu=none os=debian-12 python=3.11 arch=x86_64 cpu=avx512 glibc=2.36 ram=64").model_copy(
    update={
        "user": User(name="ada", uid=1000, home="/home/ada"),
        "disks": (
            Disk(path="/", mount="/", free=500 * GIB),
            Disk(path="/opt/firstlight", mount="/", free=500 * GIB),
            Disk(path="/home/ada", mount="/home", free=GIB),
        ),
    }
)


@pytest.mark.parametrize(
    ("settings", "become", "fits"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"prefix": "/home/ada/firstlight"}, True, False),
        ({"prefix": "/srv/firstlight"}, False, True),
    ],
    ids=["as root", "in the home", "named, on the small one", "named, on the large one"],
)
def test_the_disk_of_the_future_installation_is_checked(settings: dict[str, str], become: bool, fits: bool) -> None:
    resolution = resolve(FACTS, become=become, **settings)
    assert (resolution.stack is not None) is fits
    assert ("disk" in refusing(resolution)) is not fits


@pytest.mark.parametrize(
    ("installed", "fits"),
    [
        (Installed(prefix="/opt/firstlight", current="0123456789abcdef"), True),
        (Installed(prefix="/opt/firstlight", environments=("0123456789abcdef",)), True),
        (Installed(prefix="/opt/firstlight"), False),
    ],
    ids=["active", "complete, refused by verify", "none"],
)
def test_an_installed_environment_needs_no_more_space(installed: Installed, fits: bool) -> None:
    disks = (Disk(path="/", mount="/", free=GIB),)
    facts = FACTS.model_copy(update={"installed": installed, "disks": disks})
    assert (resolve(facts, become=True).stack is not None) is fits


@pytest.mark.parametrize(
    ("models", "settings", "fits"),
    [
        (("other-0123456789abcdef", "model-0123456789abcdef"), {}, True),
        (("other-0123456789abcdef",), {}, False),
        ((), {}, False),
        (("other-0123456789abcdef",), {"model_on_host": "/srv/model"}, True),
    ],
    ids=["there", "another", "none", "linked"],
)
def test_a_new_model_needs_its_space_beside_an_installed_environment(
    models: tuple[str, ...], settings: dict[str, str], fits: bool
) -> None:
    kept = Installed(prefix="/opt/firstlight", current="0123456789abcdef", model_files=dict.fromkeys(models, ("w",)))
    facts = FACTS.model_copy(update={"installed": kept, "disks": (Disk(path="/", mount="/", free=GIB // 2),)})
    found = resolve(facts, model_of(LLAMA), become=True, **settings)
    assert ("disk" in refusing(found)) is not fits


def test_a_model_that_arrived_before_the_run_failed_needs_its_space_once() -> None:
    small, model = FACTS.model_copy(update={"disks": (Disk(path="/", mount="/", free=3 * GIB),)}), model_of(LLAMA)
    assert "disk" in refusing(resolve(small, model, become=True))
    arrived = small.model_copy(update={"incoming": {"0" * 64: GIB}})
    assert "disk" not in refusing(resolve(arrived, model, become=True))


def test_a_linked_model_needs_no_space_before_the_first_installation() -> None:
    small = FACTS.model_copy(update={"disks": (Disk(path="/", mount="/", free=3 * GIB),)})
    found = resolve(small, model_of(LLAMA), become=True, model_on_host="/srv/model")
    assert "disk" not in refusing(found)


def test_a_plan_says_what_must_be_free_on_the_disk() -> None:
    [line] = [line for line in render(plan_of(FACTS, become=True), {}).splitlines() if " disk " in line]
    whole, *parts = map(float, re.findall(r"\d+\.\d", line))
    assert whole == pytest.approx(sum(parts), abs=0.2)
    assert "GiB must be free in the installation folder (environment " in line
