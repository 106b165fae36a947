"""Secrets in every setting that may hold one, and a search for them in everything that a run writes, prints or starts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.security_cases.rows import (
    Ended,
    Outcome,
    arguments_of_processes,
    case,
    contents,
    files_below,
    firstlight,
    leaks,
    outcome_of,
    own_environment,
    python,
)
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import FirstlightError
from provision.core.models.facts import Configuration, OperatingSystem
from provision.core.models.inventory import Connection, Host
from provision.core.models.records import Finding
from provision.core.models.settings import Settings
from provision.core.redaction import redact, scrub
from provision.core.run_folder import RunFolder
from provision.features.host_comparison.compare import compare
from provision.features.host_comparison.text import MAJORITY, ComparedClass, document, prometheus, render
from provision.features.host_comparison.values import values_of
from provision.phases.install.host_results import install
from provision.phases.install.target import Target
from provision.phases.stage import stage
from provision.phases.stage.bundle import BundleContents, RecordingStore, keys, sealed, write_bundle
from provision.phases.stage.sbom import write_sbom
from provision.report import page, summarise, write
from provision.report.history.bundle import bundle
from tests.install.conftest import make_site
from tests.pipeline.test_secrets import PLANTED, inventory
from tests.report.sample import CPU_STACK, Folder, facts, host, result
from tests.report.test_secrets_corpus import corpus
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import FACTS, TAG, make_stack, resolve_to

GROUP = "secrets"
NOWHERE = "in no file, output or argument of a process"
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
    ("drift", "--prometheus", "-"),
)
AFTERWARDS = (
    ("logs", "show", "--full"),
    ("logs", "show", "--json"),
    ("logs", "open", "--no-browser"),
    ("logs", "bundle", "-o", "report.tar.gz"),
)
FAULT = """
import os, sys
from provision.pipeline import probe
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
    """Yield everything below a folder, except the user's own files."""
    for path in files_below(folder, leave_out=[folder / name for name in own]):
        yield from ((f"{path.relative_to(folder).parent}/{name}", text) for name, text in contents(path))


def said(done: list[Ended]) -> Iterator[tuple[str, bytes]]:
    for number, ended in enumerate(done):
        yield f"the output of command {number}", ended.text.encode(errors="surrogateescape")


@case(
    GROUP,
    "passwords of SSH and sudo, a hub token (variable, file), proxy and index addresses with a password, API keys: "
    "probe, plan, status, drift, then all commands on the run",
    NOWHERE,
)
def commands(folder: Path) -> Outcome:
    path = inventory(folder)
    with own_environment(folder, **variables()), arguments_of_processes() as arguments:
        done = [firstlight(*command, "-i", str(path), folder=folder) for command in COMMANDS]
        done += [firstlight(*command, folder=folder) for command in AFTERWARDS]
    bad = [ended.stderr for ended in done if ended.code not in (0, 4)]
    if bad:
        return Outcome(f"a command failed: {bad[0]}", 1, "fail")
    texts = [*written(folder, "hosts.yml", "token"), *said(done), ("arguments", "\n".join(arguments).encode())]
    return outcome_of(leaks(texts, PLANTED | ENVIRONMENT), f"{len(texts)} texts of {len(done)} commands")


@case(GROUP, "a secret in firstlight_env, and as an argument of vLLM in three spellings", "refused, and not shown")
def wrong_settings(folder: Path) -> Outcome:
    secret = PLANTED["variable"]
    settings: list[dict[str, Any]] = [
        {"firstlight_env": {"HF_TOKEN": secret}},
        {"firstlight_env": {"NOTE": f"password={secret}"}},
        {"firstlight_vllm_args": ["--api-key", secret]},
        {"firstlight_vllm_args": [f"--api-key={secret}"]},
        {"firstlight_vllm_args": [f"--api-k={secret}"]},
    ]
    done = [firstlight("plan", "-i", str(inventory(folder, **one)), folder=folder) for one in settings]
    accepted = [ended.code for ended in done if ended.code != 2]
    found = leaks(chain(written(folder, "hosts.yml", "token"), said(done)), PLANTED)
    return outcome_of([*found, *(f"exit code {code}" for code in accepted)], f"{len(done)} plans refused")


@case(GROUP, "a fault of the product, whose message has the inventory, the environment and the sudo password", "masked")
def fault(folder: Path) -> Outcome:
    inventory(folder)
    with own_environment(folder, **variables()):
        done = python(FAULT, folder=folder)
    if "Traceback" not in done.stderr or "sudo said" not in done.stderr:
        return Outcome(f"the fault was not reached: {done.text[-300:]}", 1, "fail")
    texts = [*written(folder, "hosts.yml", "token"), *said([done])]
    return outcome_of(leaks(texts, PLANTED | ENVIRONMENT), "trace, JSON document and the run's files")


@case(
    GROUP,
    "an index that asks for a password: locking, fetching, a bundle with its bill of materials, a run's records",
    "in no file of the wheelhouse, of the run or of the bundle",
)
def index_with_password(folder: Path) -> Outcome:
    site = Site()
    secret = ENVIRONMENT["index"]
    site.faults.wants = "Basic " + base64.b64encode(f"me:{secret}".encode()).decode()
    try:
        address = site.url.replace("http://", f"http://me:{secret}@")
        settings = sealed(ClientSettings(index=f"{address}/simple"))
        for name, version, needs, tag in (
            ("vllm", "0.9.1", ("torch==2.7.0",), "py3-none-any"),
            ("torch", "2.7.0", (), TAG),
        ):
            site.add_wheel(*make_wheel(name, version, requires=needs, tag=tag))
        store, run = RecordingStore(folder / "cache"), RunFolder.create(folder / "logs", command="stage")
        staged = stage(resolve_to(make_stack(None, None)), Settings(), FACTS, store=store, client=settings, run=run)
        run.write("stage/gpu-1.json", staged)
        site.faults.wants = "Basic other"
        try:
            stage(
                resolve_to(make_stack(None, None)),
                Settings(),
                FACTS,
                store=RecordingStore(folder / "other"),
                client=settings,
            )
        except FirstlightError as error:
            run.event("error", text=error.render())
            printed = error.render()
        else:
            return Outcome("the index with another password was read", 1, "fail")
    finally:
        site.close()
    sbom = write_sbom(staged, run.path("sbom"))
    held = BundleContents([staged], store.cache_entries(), [], [], sboms=[sbom])
    write_bundle(folder / "site.bundle", held, keys.signing_key(None))
    texts = [*written(folder), ("the error of a wrong password", printed.encode())]
    return outcome_of(leaks(texts, {"index password": secret}), f"{len(texts)} texts")


@case(
    GROUP,
    "an installation by Ansible with a sudo password, a hub token in the environment and an API key made on the host",
    f"{NOWHERE}; the API key only in etc/service.env",
)
def installation(folder: Path) -> Outcome:
    site = make_site(folder)
    site.send()
    secrets = {"sudo password": "Vx3-sudo-5Kp8Ws", "hub token": PLANTED["environment"]}
    target = Host(
        name="this",
        connection=Connection(kind="local", become_password=SecretStr(secrets["sudo password"])),
        settings=Settings(),
    )
    with own_environment(folder, HF_TOKEN=secrets["hub token"]), arguments_of_processes() as arguments:
        results = install(site.run(), [Target(target, site.variables)], playbook="site")
    if results["this"].status != "ok":
        return Outcome(f"the installation failed: {results['this'].text}", 1, "fail")
    private = site.prefix / "etc/service.env"
    key = next(line for line in private.read_text().splitlines() if line.startswith("VLLM_API_KEY=")).partition("=")[2]
    own = str(private.relative_to(folder))
    texts = [*written(folder, own), ("arguments", "\n".join(arguments).encode())]
    return outcome_of(leaks(texts, {**secrets, "API key": key.strip("'\"")}), f"{len(texts)} texts")


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
    "masked in all files, the summaries, the page, both archives and Prometheus' text",
)
def records(folder: Path) -> Outcome:
    rows = list(corpus())
    run = _made_run(folder, [line for line, _ in rows])
    write(run, summarise(run))
    page.write(run)
    for anonymous in (False, True):
        bundle(run.folder, folder / f"report-{anonymous}.tar.gz", anonymous=anonymous)
    secrets = {secret: secret for _, some in rows for secret in some if len(secret) >= 8}
    texts = list(written(folder))
    plain = [f"a secret is in {where}" for where, text in texts for secret in secrets if secret.encode() in text]
    return outcome_of(plain, f"{len(secrets)} secrets in {len(texts)} texts")


@case(GROUP, "packages, kernel settings and service names of a host with tokens in them: drift", "masked")
def drift(_: Path) -> Outcome:
    rows = [(line, some) for line, some in corpus() if "\n" not in line]
    lines = [line for line, _ in rows]
    some = [
        facts(name).model_copy(
            update={
                "os": OperatingSystem(id="debian", version_id="12", kernel=name),
                "configuration": Configuration(
                    packages={}, sysctl={f"key{n}": line for n, line in enumerate(lines)} if name == "b" else {}
                ),
            }
        )
        for name in ("a", "b", "c")
    ]
    compared = [ComparedClass("cards", MAJORITY, compare([values_of(one) for one in some]))]
    text = redact(f"{render(compared)}\n{prometheus(compared, missing=(), at_unix_s=0.0)}")
    text += json.dumps(scrub(document(compared)))
    found = [secret for _, more in rows for secret in more if len(secret) >= 8 and secret in text]
    return outcome_of([f"`{secret[:4]}...` is in the text" for secret in found], f"{len(text)} characters")
