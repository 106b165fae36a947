"""serving.account: what the service's account may do besides the service."""

import grp
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from verify.commands import printed
from verify.files import small_text
from verify.records import CheckContext, CheckResult, Observation, combine, first_few
from verify.serving import service_plan
from verify.tables import table

REMEDY = "./firstlight provision restores the account; take away sudo rights, groups, keys and passwords that somebody gave it"


@dataclass(frozen=True)
class AccountFacts:
    """Observations on the host."""

    name: str
    shell: str
    groups: tuple[str, ...] = ()
    sudo: str = ""
    """Output of `sudo -l` for the account; empty where there is no sudo."""
    password: str = "!"  # noqa: S105 - the mark of none
    """Second field of shadow(5)."""
    keys: tuple[str, ...] = ()
    """Files of keys that let somebody log in."""
    others: tuple[str, ...] = ()
    """Other accounts with its number."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        return evaluate(AccountFacts("firstlight", "/usr/sbin/nologin", groups=("sudo",)))
    user = service_plan.read(service).user
    if service.prefix.stat().st_uid != 0 or user is None:
        return CheckResult("skip", "the service runs as the account that installed it")
    try:
        return evaluate(collect(user, pwd.getpwnam(user)))
    except KeyError:
        return CheckResult("fail", f"there is no account {user}, as which the service starts", remedy=REMEDY)


def collect(name: str, entry: pwd.struct_passwd) -> AccountFacts:
    """Read an account's entries, groups, rights and keys."""
    rows = table("account")["account"]
    shadow = (line.split(":") for line in small_text("/etc/shadow").splitlines() if line.startswith(f"{name}:"))
    keys = (Path(entry.pw_dir) / ".ssh" / file for file in ("authorized_keys", "authorized_keys2"))
    return AccountFacts(
        name,
        entry.pw_shell,
        tuple(_group(number) for number in os.getgrouplist(name, entry.pw_gid)),
        printed([*rows["sudo"], name], limit_s=rows["limit_s"]) or "",
        next((fields[1] for fields in shadow), "!"),
        tuple(str(path) for path in keys if path.exists()),
        tuple(other.pw_name for other in pwd.getpwall() if other.pw_uid == entry.pw_uid and other.pw_name != name),
    )


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def evaluate(facts: AccountFacts) -> CheckResult:
    """Fail on everything by which somebody can become this account, or the account more than itself."""
    problems = list(_problems(facts))
    evidence = {"shell": facts.shell, "groups": facts.groups, "problems": problems}
    healthy = f"{facts.name} has no login, no sudo rights and no powerful group ({', '.join(facts.groups) or 'none'})"
    return combine([Observation("fail", text, REMEDY) for text in problems], healthy, (), evidence)


def _problems(facts: AccountFacts) -> Iterator[str]:
    rows = table("account")["account"]
    shell = facts.shell or "/bin/sh"  # passwd(5)
    if shell.rpartition("/")[2] not in rows["no_login"]:
        yield f"{facts.name} has the login shell {shell}"
    # `sudo -l` prints the commands below a line that ends with a colon, and one sentence where there are none.
    granted = facts.sudo.partition("may run the following commands")[2].splitlines()[1:]
    if rules := [line.strip() for line in granted if line.strip()]:
        yield f"{facts.name} may run commands by sudo: {first_few(rules, 2)}"
    if powerful := [group for group in facts.groups if group in rows["powerful"]]:
        yield f"{facts.name} is in group {', '.join(powerful)}"
    if facts.password and facts.password[0] not in "!*":
        yield f"{facts.name} has a password"
    if not facts.password:
        yield f"{facts.name} needs no password"
    if facts.keys:
        yield f"{facts.name} may log in with the keys of {', '.join(facts.keys)}"
    if facts.others:
        yield f"{', '.join(facts.others)} is the same account by another name"
