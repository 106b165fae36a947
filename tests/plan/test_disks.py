"""Which disk the plan looks at: the one that the installation will lie on."""

from __future__ import annotations

import pytest

from provision.core.models.facts import Disk, User
from provision.core.models.settings import Settings
from provision.phases.plan import plan
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
def test_the_disk_of_the_place_where_it_will_lie_is_judged(settings: Settings, become: set[str], fits: bool) -> None:
    [resolution] = plan({"h": FACTS}, {"h": settings}, become=become).classes
    assert (resolution.stack is not None) is fits
    assert any(reason.rule == "disk" and reason.verdict == "reject" for reason in resolution.reasons) is not fits
