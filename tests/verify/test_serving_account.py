"""What an account may do besides its service, from the output of sudo 1.9 and entries of passwd and shadow."""

from __future__ import annotations

import os
import pwd
from dataclasses import replace

import pytest

from verify.checks.serving.access import AccountFacts
from verify.checks.serving.access import collect_account as collect
from verify.checks.serving.access import evaluate_account as evaluate

SOUND = AccountFacts(
    "firstlight",
    "/usr/sbin/nologin",
    ("firstlight", "video", "render"),
    "User firstlight is not allowed to run sudo on host2.\n",
)
GRANTED = """Matching Defaults entries for firstlight on host2:
    env_reset, mail_badpass, secure_path=/usr/local/sbin\\:/usr/local/bin\\:/usr/sbin\\:/usr/bin\\:/sbin\\:/bin, use_pty

User firstlight may run the following commands on host2:
    (ALL) NOPASSWD: ALL
"""


def test_an_account_for_nothing_but_its_service_passes() -> None:
    outcome = evaluate(SOUND)
    assert (outcome.status, outcome.reason) == (
        "ok", "firstlight has no login, no sudo rights and no powerful group (firstlight, video, render)"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shell": "/bin/bash"}, "firstlight has the login shell /bin/bash"),
        ({"shell": ""}, "firstlight has the login shell /bin/sh"),
        ({"sudo": GRANTED}, "firstlight may run commands by sudo: (ALL) NOPASSWD: ALL"),
        ({"groups": ("firstlight", "docker", "sudo")}, "firstlight is in group docker, sudo"),
        ({"password": "$y$j9T$abc"}, "firstlight has a password"),
        ({"password": ""}, "firstlight needs no password"),
        (
            {"keys": ("/p/home/.ssh/authorized_keys",)},
            "firstlight may log in with the keys of /p/home/.ssh/authorized_keys",
        ),
        ({"others": ("guest",)}, "guest is the same account by another name"),
    ],
)
def test_each_way_to_more_is_named(change: dict[str, str], text: str) -> None:
    outcome = evaluate(replace(SOUND, **change))  # type: ignore[arg-type]
    assert (outcome.status, outcome.reason) == ("fail", text)


@pytest.mark.parametrize("mark", ["!", "*", "!*", "!!"])
def test_the_marks_of_no_password_are_known(mark: str) -> None:
    assert evaluate(replace(SOUND, password=mark)).status == "ok"


def test_an_account_of_this_machine_is_read() -> None:
    entry = pwd.getpwuid(os.getuid())
    facts = collect(entry.pw_name, entry)
    assert (facts.name, facts.shell) == (entry.pw_name, entry.pw_shell)
    assert facts.groups
