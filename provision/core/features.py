"""The features of the product, found by the modules that their folders below `provision/features` have.

| module | what it does |
|---|---|
| `commands.py` | `add_to(app)` adds commands to the program |
| `step.py` | `STEP`, a step of a run, with the step of the core that it follows (`provision/run/step.py`) |
| `hooks.py` | functions that the core calls at certain places |

| hook | what it is for |
|---|---|
| `open_bundle(request)` | verifies a bundle and returns the index settings and overrides that it gives a run |
| `packager(store, inventory, plan)` | returns who provides the packages of a plan (`provision/phases/stage/candidate_lock.py`) |
| `sent_early(planned, hosts)` | returns the hosts that get files while others are still staged |
| `sending(context, planned, files)` | returns how files reach the hosts of a run, in place of the controller's own sending |
| `with_spans(hosts)` | returns the hosts of a whole inventory with those that serve one model together |
| `span_member(span, settings, name, agreed, prefix, devices)` | returns a host's part in a span (`provision/phases/serve/command_line.py`) |
| `needs_full_probe(context)` | returns whether systemd's state and the listening ports of hosts are needed |
| `left_out(logs, host, facts)` | returns why runs leave a host out (`provision/run/context.py`) |
| `host_checked(context, probed, host, document)` | keeps what the checks of one host say, at once |
| `hosts_checked(context, probed, answers, options)` | returns the checks of all hosts, with what they say together |
| `checked_around(context, probed)` | returns checks of what stands around hosts, such as gateways |
| `try_together(context, probed, hosts, desired)` | returns a check of several hosts together |
| `neighbours(context, phase, hosts)` | returns at which ports hosts accept others besides gateways and monitoring (`provision/features/firewall/step.py`) |
| `host_programs(folder)` | returns programs for PREFIX/bin of hosts by name; `folder` is for built ones |
| `starts(context, verified, hosts, still)` | returns a part in the starts of services (`provision/phases/serve/step.py`) |
| `served_again(context, hosts)` | acts on hosts that serve again after a command took them back |
| `steers_shares(logs)` | returns whether a rollout is open, or may be, which decides the shares of requests at gateways |
| `measured(request)` | measures what the hosts of a command serve, and returns the exit code (`provision --measure`) |
| `planned(hosts, plan)` | returns what a run sets up around the hosts of an inventory, some of which have a plan: names of hosts by a text |
| `needed_packages(hosts)` | returns the OS packages that a run needs around the hosts of an inventory, by host |
| `status(context, probed)` | returns what `status` says of hosts besides what serves (`provision/pipeline/host_status.py`) |
| `chat_endpoint(host)` | returns the endpoint of a host that `chat` asks where the user named no host, or the host itself serves nothing |
| `rolled_back(logs, outcome)` | notes which hosts a command took back |
| `earlier_failure(logs, host, newest)` | returns the failure that `doctor` is to explain |

The core imports no feature: a copy of the product without the folder of one works.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import Any

PACKAGE = "provision.features"


@cache
def modules(name: str) -> tuple[ModuleType, ...]:
    """Return the module of this name of each feature that has one, by the names of the features."""
    folders = pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)
    paths = (f"{PACKAGE}.{feature}.{name}" for feature in sorted(found.name for found in folders if found.ispkg))
    return tuple(importlib.import_module(path) for path in paths if importlib.util.find_spec(path) is not None)


def hooks(name: str) -> Iterator[Callable[..., Any]]:
    """Yield the function of this name of each feature that takes part there."""
    for module in modules("hooks"):
        if (hook := getattr(module, name, None)) is not None:
            yield hook


def first(name: str, /, *arguments: Any, **options: Any) -> Any:
    """Return what the first feature answers at this place; None where none takes part there, or has an answer."""
    answers = (hook(*arguments, **options) for hook in hooks(name))
    return next((answer for answer in answers if answer is not None), None)


def call(name: str, *arguments: Any) -> None:
    """Call the function of this name of each feature that takes part there."""
    for hook in hooks(name):
        hook(*arguments)
