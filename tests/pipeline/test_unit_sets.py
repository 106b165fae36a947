"""Whether a host has the files and units that it is to have."""

import pytest

from provision.run.unit_sets import has

FILE, UNIT, TIMER = "prometheus.yml", "a.service", "b.timer"
SUMS = {
    # `printf text | sha256sum`, so that the expected sums come from elsewhere
    "one": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
    "two": "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    "three": "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f",
}
SAID = "\n".join(
    [
        f"{SUMS['one']}  {FILE}",
        f"{SUMS['two']}  /etc/systemd/system/{UNIT}",
        f"{SUMS['three']}  /etc/systemd/system/{TIMER}",
        f"enabled active {UNIT}",
        f"static inactive {TIMER}",
    ]
)


@pytest.mark.parametrize(
    ("said", "is_there"),
    [
        (SAID, True),
        (SAID.replace(SUMS["one"], SUMS["two"]), False),
        (SAID.replace("enabled", "disabled"), False),
        (SAID.replace(" active", " failed"), False),
        (SAID.replace("inactive", "failed"), True),
        ("", False),
        (f"enabled active {UNIT}\nstatic inactive {TIMER}", False),
    ],
)
def test_files_and_units_of_a_host_are_compared(said: str, is_there: bool) -> None:
    assert has(said, {FILE: "one"}, {UNIT: "two", TIMER: "three"}, {UNIT}) is is_there
