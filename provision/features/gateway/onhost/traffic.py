"""The traffic of this gateway, in JSON: `python3 traffic.py change REQUEST`. Standard library only.

A host of a rollout is a canary: it is drained at HAProxy, and gets a share of requests by draw. `canary.json` has the shares,
`canary.map` follows from it; HAProxy reads that at each start, and gets each change over its socket.

HAProxy forgets at a restart which hosts are drained, and so does each new process after a reload. `drained.json` remembers it;
`drained.state` follows from it, and HAProxy reads that before it takes the first request. `traffic.py remember` writes it for new files.
A process of before a reload finishes its streams, so it gets the commands and is counted too.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any, Iterable, Iterator

ANSWER_S = 10.0
OPERATOR = "operator"
STATE_VERSION = "1\n"
CANARY_MAP = "canary.map"
DRAINED, CANARY = "drained.json", "canary.json"
"""By the name of a host: who drained it, and its share in ten-thousandths of its model's requests."""


class Refused(Exception):  # noqa: N818 - HAProxy's answer, not a fault
    """HAProxy refused a command, or did not answer."""


class Gateway:
    """The files beside this program, and the processes of HAProxy."""

    def __init__(self, files: Path) -> None:
        self.folder = files.parent
        known = json.loads((files / "traffic.json").read_text())
        self.servers: dict[str, dict[str, str]] = known["servers"]
        self.master = f"{known['run_folder']}/master.sock"

    def ask(self, command: str) -> str:
        """Return HAProxy's answer to a command. Raises Refused when there is none."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(ANSWER_S)
                connection.connect(self.master)
                connection.sendall(command.encode() + b"\n")
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")
        except OSError as error:
            raise Refused(f"HAProxy does not answer at {self.master}: {error.strerror or error}") from None

    def processes(self) -> Iterator[tuple[str, bool, str]]:
        """Yield each process: the prefix of its commands, whether it takes new connections, its figures."""
        is_new = True
        for line in self.ask("show proc").splitlines():
            is_new = is_new and not line.startswith("# old")
            words = line.split()
            if words[1:2] == ["worker"]:
                stat = self.ask(f"@!{words[0]} show stat")
                if stat.startswith("# pxname"):
                    yield f"@!{words[0]}", is_new, stat
                elif is_new:
                    raise Refused(f"HAProxy gives no figures: {stat.strip()}")

    def tell(self, names: Iterable[str], drained: dict[str, str], canary: dict[str, int]) -> None:
        """Let every process drain hosts, or take them back, and know the shares of canaries. Raises Refused."""
        bounds = self.bounds(drained, canary)
        by_server = {self.servers[name]["server"]: name for name in names if name in self.servers}
        for process, is_new, stat in list(self.processes()):
            found = set()
            for row in csv.DictReader(io.StringIO(stat[2:])):
                name = by_server.get(row["svname"])
                if name is None or not row["pxname"].startswith("model-"):
                    continue
                found.add(name)
                state = "drain" if name in drained or name in canary else "ready"
                answer = self.ask(f"{process} set server {row['pxname']}/{row['svname']} state {state}").strip()
                if answer and is_new:
                    raise Refused(f"HAProxy refuses: {answer}")
            # Shares last: a host that becomes a canary is drained by then.
            for server, bound in bounds.items():
                answer = self.ask(f"{process} set map {self.folder}/{CANARY_MAP} {server} {bound}").strip()
                if answer and is_new and (bound or "not found" not in answer):
                    raise Refused(f"HAProxy refuses: {answer}")
            if is_new and (missing := set(by_server.values()) - found):
                raise Refused(f"HAProxy has no server for {', '.join(sorted(missing))}")

    def known(self, name: str) -> dict[str, Any]:
        """Return the content of a file next to the sets; empty where there is no file."""
        try:
            return dict(json.loads((self.folder / name).read_text()))
        except FileNotFoundError:
            return {}

    def bounds(self, drained: dict[str, str], canary: dict[str, int]) -> dict[str, int]:
        """Return the bound of each server: the sum of the shares up to its own. A drained host has none."""
        found: dict[str, int] = {}
        sums: dict[str, int] = {}
        for name in sorted(self.servers):
            model, share = self.servers[name]["model"], 0 if name in drained else canary.get(name, 0)
            sums[model] = sums.get(model, 0) + share
            found[self.servers[name]["server"]] = sums[model] if share else 0
        return found

    def remember(self, drained: dict[str, str], canary: dict[str, int]) -> None:
        """Write which hosts are drained and the shares of canaries, for HAProxy's next start."""
        write(self.folder / DRAINED, json.dumps(drained, sort_keys=True) + "\n")
        write(self.folder / CANARY, json.dumps(canary, sort_keys=True) + "\n")
        names = sorted({*drained, *canary} & set(self.servers))
        lines = [self.servers[name]["state"] for name in names]
        write(self.folder / "drained.state", STATE_VERSION + "".join(f"{line}\n" for line in lines))
        bounds = self.bounds(drained, canary)
        write(self.folder / CANARY_MAP, "".join(f"{server} {bound}\n" for server, bound in bounds.items()))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one change at a time go on."""
        with (self.folder / "drained.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def change(self, drain: list[str], ready: list[str], by: str, canary: dict[str, int] | None) -> None:
        """Drain hosts and take others back: all, or none. A run leaves alone what an operator drained.

        Args:
            drain: Hosts that get no new requests.
            ready: Hosts that get requests again; one that an operator names is no canary any more.
            canary: All canaries from now on, with their shares; None leaves them.

        Raises Refused where HAProxy refuses or does not answer, and OSError where the files cannot be written.
        """
        with self.locked():
            before, canaries = self.known(DRAINED), self.known(CANARY)
            after, shares = dict(before), dict(canaries if canary is None else canary)
            for name in drain:
                if name in self.servers and (by == OPERATOR or name not in after):
                    after[name] = by
            for name in ready:
                if by == OPERATOR or after.get(name) == by:
                    after.pop(name, None)
                if by == OPERATOR:
                    shares.pop(name, None)
            names = {*drain, *ready, *(canaries.keys() ^ shares.keys())}
            self.remember(after, shares)
            try:
                self.tell(names, after, shares)
            except Refused:
                self.remember(before, canaries)
                with contextlib.suppress(Refused):
                    self.tell(names, before, canaries)
                raise

    def figures(self) -> dict[str, Any]:
        """Return what HAProxy counts, which hosts are drained, and the tokens of clients as tokens.lua tells them."""
        found = list(self.processes())
        processes = [{"is_new": is_new, "stat": stat} for _, is_new, stat in found]
        servers = {
            name: {key: server[key] for key in ("model", "backend", "server")} for name, server in self.servers.items()
        }
        return {
            "servers": servers,
            "drained": self.known(DRAINED),
            "canary": self.known(CANARY),
            "processes": processes,
            "tokens": "".join(self.ask(f"{process} show tokens") for process, is_new, _ in found if is_new),
        }


def write(path: Path, text: str) -> None:
    """Write a file at once, for root alone."""
    fresh = path.with_suffix(path.suffix + ".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - with its mode
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def main() -> None:
    """Do what is asked, and print the figures."""
    gateway = Gateway(Path(__file__).absolute().parent)
    if sys.argv[1] == "remember":
        with gateway.locked():
            gateway.remember(gateway.known(DRAINED), gateway.known(CANARY))
        return
    request = json.loads(sys.argv[2])
    canary = request.get("canary")
    try:
        if request["drain"] or request["ready"] or canary is not None:
            gateway.change(request["drain"], request["ready"], request["by"], canary)
        answer = gateway.figures()
    except Refused as refused:
        answer = {"error": str(refused)}
    except OSError as error:
        answer = {"error": f"{error.filename}: {error.strerror}"}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
