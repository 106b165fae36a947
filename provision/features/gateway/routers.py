"""vllm-router on the gateways of a run whose settings choose it: its wheel is sent, and a unit runs it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from provision.catalog.index.settings import ClientSettings, read_settings
from provision.core.errors import FirstlightError, InventoryError
from provision.core.folders import product_path
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.models.staged import StagedFile
from provision.features.gateway.backends import Gateway
from provision.features.gateway.draining import python_of
from provision.features.gateway.haproxy import routed
from provision.features.gateway.router import NAME, UNIT, WHEELS, router_set, silent_hosts, tokens_command
from provision.phases.stage.locked_wheel import fetch_locked_wheel, locked_hashes
from provision.phases.stage.platforms import Target
from provision.phases.stage.wheelhouse import Store
from provision.report.layout import fold_names
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.sending import SentBytes
from provision.run.unit_sets import play_differing, play_removal

LOCK = product_path("requirements/router.txt")
DISTRIBUTION = "vllm-router"
MACHINES = ("x86_64", "aarch64")
"""What vllm-router has wheels for."""
_GLIBC, _PYTHON = "2_28", "3.8"
"""What its wheels need at least. Of a wheel, the program that our launcher starts needs no other distribution."""
_UNUSED = ("aiohttp", "fastapi", "orjson", "requests", "setproctitle", "uvicorn")
"""Distributions that only its own launcher and its balancer for debugging import."""
SEND_DEADLINE_S = 600.0
ASK_DEADLINE_S = 60.0
HINT = "firstlight_vllm_args: [--enable-scale-out] of these hosts lets vLLM answer; the argument is one of newer releases, such as 0.32.0"


def set_up(
    context: RunContext,
    probed: ProbedHosts,
    gateways: Sequence[Host],
    made: Mapping[str, Gateway],
    before: Mapping[str, bool],
) -> dict[str, PhaseResult]:
    """Run the routers of gateways that run, and remove those of gateways that choose otherwise now and had them before.

    Return the result of each gateway where something was set up or removed, or was to be.
    """
    chosen = _choosing(gateways)
    gone = [host for host in gateways if host not in chosen and before[host.name]]
    results = play_removal(context, probed, "gateway_router", gone, [(NAME, (UNIT,))])
    wheels = stage(context, probed, chosen)
    sets = {}
    for host in [host for host in chosen if host.name in wheels]:
        gateway, wheel, prefix = made[host.name], wheels[host.name], probed.install_paths[host.name].prefix
        one = router_set(gateway, routed(gateway), wheel=wheel, python=python_of(host), prefix=prefix)
        sets[host.name] = [one]
    sent = context.run_on_hosts(
        "serve",
        [host for host in chosen if host.name in sets],
        lambda host: _send(context, probed, host, wheels[host.name]),
        deadline_s=SEND_DEADLINE_S,
    )
    results |= play_differing(context, probed, "gateway_router", {name: sets[name] for name in sent})
    ready = [host for host in chosen if host.name in results]

    def ask(host: Host) -> str:
        prefix = probed.install_paths[host.name].prefix
        command = tokens_command(python_of(host), prefix, host.settings.gateway_router_port)
        return context.session(host).run(command, root=True).stdout

    tokens = context.run_on_hosts("serve", ready, ask, deadline_s=ASK_DEADLINE_S)
    return results | {name: _warned(results[name], said) for name, said in tokens.items()}


def _warned(result: PhaseResult, said: str) -> PhaseResult:
    """Return the result of a gateway, as a warning where its router learns nothing of some hosts."""
    refusing = silent_hosts(said)
    if not refusing:
        return result
    hosts = "; ".join(f"{fold_names(names)} with {status}" for status, names in refusing.items())
    text = f"vllm-router chooses only by the fewest requests: to a request for the tokens of a prompt, vLLM answers {hosts}"
    return result.model_copy(update={"status": "warn", "text": text, "hint": HINT})


def _choosing(gateways: Sequence[Host]) -> list[Host]:
    return [host for host in gateways if host.is_gateway and host.settings.gateway_balance == "router"]


def stage(context: RunContext, probed: ProbedHosts, gateways: Sequence[Host]) -> dict[str, StagedFile]:
    """Return the wheel for each gateway that chooses by vllm-router, in the wheelhouse; a gateway without one fails."""
    hosts = _choosing(gateways)
    if not hosts:
        return {}
    settings, found = context.options.client or read_settings(), {}
    for host in hosts:
        machine = probed.facts[host.name].os.machine
        try:
            if machine not in MACHINES:
                raise InventoryError(
                    f"gateway `{host.name}`: vllm-router has no wheel for its machine, {machine}",
                    hint="firstlight_gateway_balance: prefixes chooses by the beginning of a prompt as well",
                )
            context.progress.note(host.name, "fetches vllm-router")
            found[host.name] = stage_router(machine, settings, context.wheelhouse())
        except FirstlightError as error:
            context.fail(host.name, "serve", error)
    return found


def stage_router(machine: str, settings: ClientSettings, store: Store) -> StagedFile:
    """Put the wheel for one of `MACHINES` into the wheelhouse. Raises StageError where it cannot be had, or its hash is not in the lock."""
    version, _ = locked_hashes(LOCK, DISTRIBUTION)
    key = f"{DISTRIBUTION}-{version}-{machine}"
    if (known := store.get("tools", key)) and (path := store.find(known["sha256"], known["name"])):
        return store.staged(path, "tool")
    target = Target.of(f"{machine}-manylinux_{_GLIBC}", _PYTHON)
    path = fetch_locked_wheel(DISTRIBUTION, target, settings, store, LOCK, excluded=_UNUSED)
    store.put("tools", key, {"sha256": path.parent.name, "name": path.name})
    return store.staged(path, "tool")


def _send(context: RunContext, probed: ProbedHosts, host: Host, wheel: StagedFile) -> None:
    """Send the wheel to a gateway that does not have it."""
    session, folder = context.session(host), f"{probed.install_paths[host.name].prefix}/{NAME}/{WHEELS}"
    path = f"{folder}/{wheel.name}"
    said = session.run(f"mkdir -p -- {shlex.quote(folder)} && sha256sum -- {shlex.quote(path)}", root=True)
    if said.stdout.split()[:1] != [wheel.sha256]:
        context.progress.note(host.name, "gets vllm-router")
        session.write(path, Path(wheel.path).read_bytes(), root=True)
        context.state(SentBytes).count(wheel.size)
