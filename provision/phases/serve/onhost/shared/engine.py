"""What an engine shows on its own host: its metrics, the answer to a question, the processor time of its processes."""

from __future__ import annotations

import http.client
import json
import os
import pkgutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from verify.serving.samples import totals

SERVER_ERROR, BUSY = 500, 503
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
    ("/v1/embeddings", {"input": "a"}),
    ("/v1/score", {"text_1": "a", "text_2": "a"}),
)
"""What models are asked that make text, embeddings or scores; a server has the route of its own model alone."""
UNANSWERED = 100
"""What a question without an answer counts as: enough failures, until one is answered."""


def table(name: str, package: str = __package__) -> dict[str, Any]:
    """Return a table of a package, which has it as JSON in the program."""
    return dict(json.loads(pkgutil.get_data(package, f"{name}.json") or b""))


class Server:
    """The engine's server, asked over HTTP: its metrics may take `answer_s` seconds, other answers `patience_s`."""

    def __init__(self, address: str, port: int, key: str | None, *, answer_s: float, patience_s: float) -> None:
        self._at = address, port
        self._answer_s = answer_s
        self._headers = {"Content-Type": "application/json", "User-Agent": "firstlight-health-agent"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._patience_s = patience_s
        self._model: str | None = None
        self._question = 0
        self.is_asked = False
        self.answers = self.failures = 0

    def _request(self, method: str, path: str, body: object, timeout_s: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self._at, timeout=timeout_s)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def figures(self, names: Mapping[str, Any]) -> tuple[tuple[float, ...] | None, dict[str, float]]:
        """Return what `values_of` reads in its metrics; None and nothing where it does not answer in time.

        Raises:
            ConnectionRefusedError: Nothing listens there.
        """
        try:
            text = self._request("GET", "/metrics", None, self._answer_s)[1].decode(errors="replace")
        except ConnectionRefusedError:
            raise
        except (OSError, http.client.HTTPException):
            return None, {}
        return values_of(text, names)

    def ask(self) -> None:
        """Ask for one token, and return at once. What becomes of it shows in `is_asked`, `answers` and `failures`."""
        self.is_asked = True
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            status = self._completion()
        except TimeoutError:
            self.failures += UNANSWERED
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            pass  # a server that ends; HAProxy sees that itself
        else:
            # A model that completes no text refuses with 4xx, a server with too much to do with 503: neither is a fault.
            self.failures = self.failures + 1 if status >= SERVER_ERROR and status != BUSY else 0
            self.answers += 1
        finally:
            self.is_asked = False

    def _completion(self) -> int:
        if self._model is None:
            status, listed = self._request("GET", "/v1/models", None, self._patience_s)
            if status != http.client.OK:
                return status
            self._model = str(json.loads(listed)["data"][0]["id"])
        path, question = QUESTIONS[self._question]
        status, _ = self._request("POST", path, {"model": self._model, **question}, self._patience_s)
        if status == http.client.NOT_FOUND:  # another model is served there now, or one that makes something else
            self._model = None
            self._question = (self._question + 1) % len(QUESTIONS)
        return status


@dataclass(frozen=True)
class Processes:
    """The processes of a unit. Times are in seconds; None where the unit's processes are unknown."""

    engine_cpu_s: float | None = None
    """Processor time of those that compute."""
    all_cpu_s: float | None = None
    """The same with the server."""
    is_stopped: bool = False
    """Whether a signal stopped one."""
    engines: int = 1
    """How many compute."""


def processes(paths: Sequence[Path], titles: Sequence[str]) -> Processes:
    """Read what a unit's processes did, by the first file with their numbers; `titles` begin those that compute."""
    for path in paths:
        try:
            # podman puts a container into groups below that of its unit.
            numbers = [
                word for file in (path, *path.parent.glob(f"*/{path.name}")) for word in file.read_text().split()
            ]
        except OSError:
            continue
        found = {int(number): one for number in numbers if (one := look_at_process(int(number)))}
        engine = {number for number, one in found.items() if one.title.startswith(tuple(titles))}
        at_work = engine
        # An engine waits for the compilers that it starts, with a first request.
        while children := {number for number, one in found.items() if one.parent in at_work} - at_work:
            at_work = at_work | children
        return Processes(
            engine_cpu_s=sum(found[number].cpu_s for number in at_work) if engine else None,
            all_cpu_s=sum(one.cpu_s for one in found.values()) if found else None,
            is_stopped=any(one.state == "T" for one in found.values()),
            engines=max(len(engine), 1),
        )
    return Processes()


class Process(NamedTuple):
    """What the kernel shows of a process."""

    title: str
    cpu_s: float
    state: str
    """A letter of proc(5)."""
    parent: int


def look_at_process(number: int) -> Process | None:
    """Return a process; None for one that has ended."""
    try:
        title = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace").strip()
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Process(title, cpu_s, state=fields[0], parent=int(fields[1]))


def values_of(text: str, names: Mapping[str, Any]) -> tuple[tuple[float, ...], dict[str, float]]:
    """Return the values that show progress, and those that are read one by one, by their key in table `metrics`."""
    single = [key for key in names if key != "progress"]
    found = totals(text, [*names["progress"], *(names[key] for key in single)])
    return tuple(found[name] for name in names["progress"]), {key: found[names[key]] for key in single}
