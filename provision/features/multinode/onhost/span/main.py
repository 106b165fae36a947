"""Serve one model together with other hosts: start when all are there, end when one is gone.

    span.pyz --rank R --addresses A0,A1,... --port P --agreement DIGEST [--ray ...] [-- COMMAND ...]

The server starts when every host of the span has said that it is there with the same release, and is killed with all its
processes when another host's server ends, or the host hangs up or falls silent. A server counts as ended when a process of its
engine has ended, and when a signal has stopped one of its processes. With --ray, Ray starts on each host with the server, which the head
alone has, and counts as a part of it. Then this program ends too, and whoever keeps the service running starts it again: nothing serves
until all hosts have met anew. An engine that hangs is for the watchdog of the first host, which ends its server.

Exit status: 0 when it was stopped, 75 when another host was lost or stopped, else 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time

from verify.host.network import interface_of, interface_variables

from .meeting import TICK_S, Link, LostError, Member, meet, note
from .ray import Ray
from .server import Programs

ENDED, STOPPED = "ended", "stopped"
NETWORK_S = 180.0
"""Seconds in which a network comes up, after a boot or a lost link. Each start that fails counts, and systemd refuses a sixth one."""
AGAIN = 75
"""EX_TEMPFAIL: nothing is wrong with this host."""


class Stop:
    """Whether the service is to stop."""

    is_set = False

    def notice(self, *_: object) -> None:
        """Handle a signal."""
        self.is_set = True


def watch(programs: Programs, links: list[Link], member: Member, stop: Stop) -> int:
    """Wait until the server or another host ends; return the exit status. The other hosts get the reason."""
    while not stop.is_set:
        why = programs.look()
        if why is not None:
            note(f"ends on all hosts: {why}")
            tell(links, ENDED)
            return 1
        for link in links:
            try:
                words = link.hear()
            except LostError as lost:
                return part(links, link, member, STOPPED, str(lost))
            with contextlib.suppress(LostError):  # the next look at it says so, after its last words
                link.beat()
            if ENDED in words:
                return part(links, link, member, ENDED, "reports that a server has ended")
            if STOPPED in words:
                return part(links, link, member, STOPPED, "was stopped")
        time.sleep(TICK_S)
    tell(links, STOPPED)
    return 0


def interface_with(address: str, stop: Stop, limit_s: float = NETWORK_S) -> str | None:
    """Return the interface with an address; None where none gets it in time. A lost link may take the addresses of its interface away."""
    deadline = time.monotonic() + limit_s
    if interface_of(address) is None:
        note(f"waits for an interface of this host with the address {address} (firstlight_span_address)")
    while (found := interface_of(address)) is None and time.monotonic() < deadline and not stop.is_set:
        time.sleep(TICK_S)
    return found


def part(links: list[Link], lost: Link, member: Member, word: str, why: str) -> int:
    """Tell the others that a host is gone; return the exit status."""
    note(f"ends on all hosts: {member.named(lost.rank)} {why}")
    tell([link for link in links if link is not lost], word)
    return AGAIN if word == STOPPED else 1


def tell(links: list[Link], word: str) -> None:
    """Say a word to all that still listen."""
    for link in links:
        with contextlib.suppress(LostError):
            link.say(word)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="span", description="Serve one model together with other hosts.")
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--addresses", required=True, help="of all hosts, the head first, divided by commas")
    parser.add_argument("--port", type=int, required=True, help="port of the head")
    parser.add_argument("--agreement", required=True)
    parser.add_argument(
        "--ray",
        nargs=4,
        type=int,
        metavar=("PROCESSES", "PORT", "FIRST", "LAST"),
        help="start Ray for so many processes; its port on the head, and its ports on each host",
    )
    parser.add_argument("command", nargs="*", help="after `--`: the server")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.notice)
    member = Member(options.rank, tuple(options.addresses.split(",")), options.port, options.agreement)
    own = member.addresses[member.rank]
    interface = interface_with(own, stop)
    if stop.is_set:
        return 0
    if interface is None:
        note(f"refuses to start: no interface of this host has the address {own} (firstlight_span_address)")
        return 1
    try:
        links = meet(member, lambda: stop.is_set)
    except OSError as problem:
        note(f"refuses to start: cannot listen on {own} port {member.port}: {problem.strerror}")
        return 1
    if not links:
        return 0
    note(f"all {len(member.addresses)} hosts are there; starts the server, which speaks over {interface}")
    environment = {**interface_variables(interface), **os.environ}  # where the settings name none
    ray = Ray(member, *options.ray) if options.ray else None
    programs = Programs(options.command, environment, ray)
    try:
        return watch(programs, links, member, stop)
    finally:
        programs.end(gently=stop.is_set)
