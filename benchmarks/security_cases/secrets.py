"""Secrets in every setting that may hold one, and a search for them in everything that a run writes, prints or starts."""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from benchmarks.security_cases.rows import (
    Ended,
    Outcome,
    arguments_of_processes,
    case,
    firstlight,
    outcome_of,
    own_environment,
    python,
)
from provision.core.models.records import Finding
from provision.core.run_folder import RunFolder
from provision.report import page, summarise, write
from provision.report.history.bundle import bundle
from tests.pipeline.test_secrets import PLANTED, inventory
from tests.report.sample import CPU_STACK, Folder, facts, host, result
from tests.report.test_secrets_corpus import corpus

GROUP = "secrets"
GZIP = b"\x1f\x8b"
ENVIRONMENT = {
    "proxy": "Vx3Proxy8Kd3Wq",
    "index": "Vx3Index5Hb7Rt",
    "extra index": "Vx3Extra2Yc6Mn",
    "API key": "sk-Vx3Api9Fg4JkLm2Pq",
}
COMMANDS = (
    ("probe", "--json"),
    ("plan", "--explain"),
    ("plan", "--json"),
    ("status", "--json"),
    ("drift", "--json"),
)
AFTERWARDS = (
    ("logs", "show", "--full"),
    ("logs", "show", "--json"),
    ("logs", "open", "--no-browser"),
    ("logs", "bundle", "-o", "report.tar.gz"),
)
FAULT = """
import os, sys
from provision.phases.probe import step as probe
def broken(context, *rest, **options):
    hosts = context.inventory.hosts
    words = {name: value for name, value in os.environ.items() if "PROXY" in name or "INDEX" in name or "KEY" in name}
    secret = hosts[0].connection.become_password.get_secret_value()
    raise RuntimeError(f"{hosts!r} {words} sudo said: {secret}")
probe.probe = broken
sys.argv = ["firstlight", "probe", "--json", "-i", "hosts.yml"]
from provision.cli.main import main
main()
"""


def variables() -> dict[str, str]:
    """Return an environment with a secret in each variable that may hold one; nothing answers at its addresses."""
    proxy = f"http://me:{ENVIRONMENT['proxy']}@127.0.0.1:9"
    return {
        "HTTPS_PROXY": proxy,
        "HTTP_PROXY": proxy,
        "PIP_INDEX_URL": f"https://me:{ENVIRONMENT['index']}@127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": f"https://me:{ENVIRONMENT['extra index']}@127.0.0.1:9/simple",
        "VLLM_API_KEY": ENVIRONMENT["API key"],
        "OPENAI_API_KEY": ENVIRONMENT["API key"],
        "HF_TOKEN": PLANTED["environment"],
    }


def written(folder: Path, *own: str) -> Iterator[tuple[str, bytes]]:
    """Yield the files below a folder, except the user's own, and what is in those that are compressed."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in own:
            content = path.read_bytes()
            yield name, content
            if content.startswith(GZIP):
                yield f"{name}: uncompressed", gzip.decompress(content)


def said(done: list[Ended]) -> Iterator[tuple[str, bytes]]:
    for number, ended in enumerate(done):
        yield f"the output of command {number}", ended.text.encode(errors="surrogateescape")


def leaks(texts: Iterable[tuple[str, bytes]], secrets: Mapping[str, str]) -> list[str]:
    """Return where a secret is: as it was written, in the form of an address, in base64, or in JSON."""
    forms = {kind: _forms(secret) for kind, secret in secrets.items()}
    return [
        f"the {kind} is in {where}"
        for where, text in texts
        for kind, spelled in forms.items()
        if any(form in text for form in spelled)
    ]


def _forms(secret: str) -> set[bytes]:
    plain = secret.encode()
    # base64 of a secret after 0, 1 or 2 other bytes, without the characters that depend on its neighbours
    inner = {base64.b64encode(b"\0" * shift + plain)[4 if shift else 0 : -4] for shift in range(3)}
    return {plain, quote(secret, safe="").encode(), *(form for form in inner if len(form) >= 8)}


@case(
    GROUP,
    "passwords of SSH and sudo, a hub token (variable, file), proxy and index addresses with a password, API keys: "
    "probe, plan, status, drift, then all commands on the run",
    "in no file, output or argument of a process",
)
def commands(folder: Path) -> Outcome:
    path = inventory(folder)
    with own_environment(folder, **variables()), arguments_of_processes() as arguments:
        done = [firstlight(*command, "-i", str(path), folder=folder) for command in COMMANDS]
        os.environ["FIRSTLIGHT_LOGS"] = str(folder / "logs/queries")  # where commands that change nothing are recorded
        done += [firstlight(*command, folder=folder) for command in AFTERWARDS]
    bad = [ended.stderr for ended in done if ended.code not in (0, 4)]
    if bad:
        return Outcome(f"a command failed: {bad[0]}", 1, "fail")
    texts = [*written(folder, "hosts.yml", "token"), *said(done), ("arguments", "\n".join(arguments).encode())]
    return outcome_of(leaks(texts, PLANTED | ENVIRONMENT), f"{len(texts)} texts of {len(done)} commands")


@case(GROUP, "a fault of the product, whose message has the inventory, the environment and the sudo password", "masked")
def fault(folder: Path) -> Outcome:
    inventory(folder)
    with own_environment(folder, **variables()):
        done = python(FAULT, folder=folder)
    if "Traceback" not in done.stderr or "sudo said" not in done.stderr:
        return Outcome(f"the fault was not reached: {done.text[-300:]}", 1, "fail")
    texts = [*written(folder, "hosts.yml", "token"), *said([done])]
    return outcome_of(leaks(texts, PLANTED | ENVIRONMENT), "trace, JSON document and the run's files")


def _made_run(folder: Path, lines: list[str]) -> RunFolder:
    """Return a finished run whose records got these lines from logs, commands, errors and hosts."""
    made = Folder(folder / "logs/20261120T101500Z", [host("a"), host("b")])
    made.planned(["a", "b"], CPU_STACK)
    made.staged(["a", "b"], CPU_STACK, notes=tuple(lines))
    made.green("a")
    text = "\n".join(lines)
    for line in lines:
        made.run.event("line", host="a", text=line, nested={"said": [line]})
        made.run.change("ansible", host="a", command=line, output=line)
    made.run.write("facts/b.json", facts("b").model_copy(update={"unknown": {"driver": text}}))
    made.run.write("findings/b.json", [Finding(cause="disk-full", confidence=0.9, evidence=tuple(lines)).model_dump()])
    made.results(result("b", "install", "failed", text=text, hint=text))
    return made.run


@case(
    GROUP,
    "138 lines with secrets of about 90 issuers in events, changes, findings, facts, errors and notes of a run",
    "masked in all files, the summaries, the page and the archive",
)
def records(folder: Path) -> Outcome:
    rows = list(corpus())
    run = _made_run(folder, [line for line, _ in rows])
    write(run, summarise(run))
    page.write(run)
    bundle(run.folder, folder / "report.tar.gz")
    secrets = {secret: secret for _, some in rows for secret in some if len(secret) >= 8}
    texts = list(written(folder))
    plain = [f"a secret is in {where}" for where, text in texts for secret in secrets if secret.encode() in text]
    return outcome_of(plain, f"{len(secrets)} secrets in {len(texts)} texts")
