"""The plan checks the disk of the installation."""

from __future__ import annotations

import re

import pytest

from provision.core.models.facts import Disk, Installed, User
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.explain import render
from provision.phases.plan.what_if import parse_what_if

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
        (Settings(), {"h"}, True),
        (Settings(), set(), False),
        (Settings(prefix="/home/ada/firstlight"), {"h"}, False),
        (Settings(prefix="/srv/firstlight"), set(), True),
    ],
    ids=["as root", "in the home", "named, on the small one", "named, on the large one"],
)
def test_the_disk_of_the_future_installation_is_checked(settings: Settings, become: set[str], fits: bool) -> None:
    [resolution] = choose_stacks({"h": FACTS}, {"h": settings}, become=become).classes
    assert (resolution.stack is not None) is fits
    assert any(reason.rule == "disk" and reason.verdict == "reject" for reason in resolution.reasons) is not fits


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
    [resolution] = choose_stacks({"h": facts}, {"h": Settings()}, become={"h"}).classes
    assert (resolution.stack is not None) is fits


def test_a_plan_says_what_must_be_free_on_the_disk() -> None:
    [line] = [
        line
        for line in render(choose_stacks({"h": FACTS}, {"h": Settings()}, become={"h"}), {}).splitlines()
        if " disk " in line
    ]
    whole, *parts = map(float, re.findall(r"\d+\.\d", line))
    assert whole == pytest.approx(sum(parts), abs=0.2)
    assert "GiB must be free in the installation folder (environment " in line
