"""One run of the benchmark: a change, a fault in the middle of it, one more `provision`, and a comparison."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos_cases import moments
from benchmarks.chaos_cases.changes import CHANGES, SETTINGS, Change, Target, other
from benchmarks.chaos_cases.draw import Trial
from benchmarks.chaos_cases.faults import FAULTS, Fault
from benchmarks.chaos_cases.product import Command, Done
from benchmarks.chaos_cases.state import State, compare, left_in, settled, shortened
from benchmarks.chaos_cases.subject import NotMadeError, Scene, Subject
from benchmarks.chaos_cases.table import GOOD, Result
from tests.fleet.serving import PREFIX

DISTURBED_S = 420.0
"""A disturbed run that has not ended by then hangs: without a fault it takes 120 s, and it waits at most five minutes for a service."""
UNDISTURBED_S = 900.0
POLL_S = 0.02
FRESH = "fresh"
"""The reference of a host that was bare; the others have the names of the two settings."""


class UndisturbedRunError(Exception):
    """A run without a fault failed, so nothing can be compared."""


@dataclass
class Bench:
    """The host between two runs: what it serves, and the states of undisturbed hosts."""

    subject: Subject
    folder: Path
    """For the records of all runs."""
    cache: Path
    scratch: Path
    """For temporary files of commands."""
    references: dict[str, State]
    """By name: those that are missing are added."""
    target: Target = "first"
    has_former: bool = False
    """Whether the other setting is its previous release."""
    known: set[str] = field(default_factory=set)
    """Differences that are there already; each counts once."""

    def provide(self) -> None:
        """Bring a bare host to where most runs begin, and note the states that they are compared with.

        Raises:
            UndisturbedRunError: A run was not green.
        """
        logs = self._logs("undisturbed")
        self._undisturbed(logs, FRESH)
        if not {"first", "second"} <= self.references.keys():
            self._turn(logs)
            self._turn(logs)

    def perform(self, trial: Trial) -> dict[str, Any]:
        """Carry out a run.

        Returns:
            What its row says of it.

        Raises:
            UndisturbedRunError: What precedes the fault failed already.
        """
        fault, change = FAULTS[trial.fault], CHANGES[trial.change]
        shutil.rmtree(self.folder / f"{trial.number:03}", ignore_errors=True)  # of an attempt without a row
        logs = self._logs(f"{trial.number:03}")
        self._prepare(change, trial, logs)
        with Command(change.command, "-i", self._inventory(), logs=logs) as command:
            row, disturbed = self._disturbed(fault, trial, command)
        recovered = self._provision(logs)
        row |= {"disturbed": disturbed.row(), "recovered": recovered.row()}
        return row | self._judge(change, disturbed, recovered, logs, made=row["made_in"] is not None)

    def _disturbed(self, fault: Fault, trial: Trial, command: Command) -> tuple[dict[str, Any], Done]:
        """Make the fault when its moment has come, and return what the row says of it, and how the run ended."""
        row: dict[str, Any] = {"made_in": None, "did": ""}
        try:
            row["made_in"] = moments.phase_of(_wait(command, trial))
            row["did"] = self._disturb(fault, trial, command)
        except NotMadeError as reason:
            row |= {"made_in": None, "did": str(reason)}
        return row, command.end(DISTURBED_S)

    def _disturb(self, fault: Fault, trial: Trial, command: Command) -> str:
        """Make a fault and undo it; return what it did. Raises NotMadeError."""

        def start_another() -> tuple[int, str]:
            words = (CHANGES[trial.change].command, "-i", self._inventory())
            done = Command(*words, logs=self._logs(f"{trial.number:03}-second")).end(UNDISTURBED_S)
            return done.code, str(done.row().get("text", done.summary.get("verdict")))

        scene = Scene(self.subject, command.process, start_another, self.cache, trial.random(), trial.lasts_s)
        with fault.make(scene) as did:
            if fault.lasts == "the run":
                command.end(DISTURBED_S)
            elif fault.lasts == "seconds":
                time.sleep(trial.lasts_s)
        return did

    def _judge(self, change: Change, disturbed: Done, recovered: Done, logs: Path, *, made: bool) -> dict[str, Any]:
        reference = self.references[FRESH if change.bare else self.target]
        found = compare(reference, settled(self.subject.host, reference, logs=logs, scratch=self.scratch))
        new = [line for line in found if line not in self.known]
        self.known = set(found)
        result: Result = GOOD
        if disturbed.hung:
            result = "hung"
        elif not recovered.is_green:
            result = "not green"
        elif new:
            result = "differs"
        elif not made:
            result = "not made"
        return {"result": result, "left": shortened(left_in(new)), "differences": shortened(new)}

    def _prepare(self, change: Change, trial: Trial, logs: Path) -> None:
        """Bring host and cache to where the run begins."""
        if change.bare:  # with the packages that the product installed, uninstall leaves a host that is not bare
            packages = " ".join(self.subject.host.sh(f"cat {PREFIX}/installed-packages.txt").split())
            removed = Command("uninstall", "-i", self._inventory(), logs=logs).end(UNDISTURBED_S)
            if removed.code:
                raise UndisturbedRunError(f"`uninstall` ended with {removed.code}: {removed.out[-2000:]}")
            self.subject.host.sh(f"dpkg -P --force-depends {packages}", timeout_s=120)
            self.target, self.has_former = "first", False
        elif change.other_target:
            self.target, self.has_former = other(self.target), True
        elif not self.has_former:
            self._turn(logs)
        if change.before:
            self.subject.host.sh(change.before, timeout_s=120)
        if trial.moment == "upload in the background":  # only what `stage` fetches is sent before `install`
            for wheel in self.cache.glob("files/*/*/torch-*.whl"):
                wheel.unlink()

    def _turn(self, logs: Path) -> None:
        """Change to the other setting without a fault."""
        self.target, self.has_former = other(self.target), True
        self._undisturbed(logs, self.target)

    def _undisturbed(self, logs: Path, name: str) -> None:
        done = self._provision(logs)
        if not done.is_green:
            raise UndisturbedRunError(f"a run without a fault was not green: {done.row()}\n{done.out[-2000:]}")
        state = settled(self.subject.host, self.references.get(name), logs=logs, scratch=self.scratch)
        if name in self.references:
            self.known = set(compare(self.references[name], state))
        else:
            self.references[name] = state

    def _provision(self, logs: Path) -> Done:
        return Command("provision", "-i", self._inventory(), logs=logs).end(UNDISTURBED_S)

    def _inventory(self) -> str:
        return str(self.subject.host.inventory(self.folder / "inventory" / self.target, **SETTINGS[self.target]))

    def _logs(self, name: str) -> Path:
        path = self.folder / name / "logs"
        path.mkdir(parents=True, exist_ok=True)
        return path


def _wait(command: Command, trial: Trial) -> moments.Lines:
    """Wait until the fault is to be made, and return the run's events so far. Raises NotMadeError when the run ends before."""
    moment = moments.MOMENTS[trial.moment]
    begun: float | None = None
    while command.process.poll() is None:
        lines = moments.read(command.run) if command.run is not None else []
        if begun is None and moment.begins(lines):
            begun = time.monotonic()
        if begun is not None and (time.monotonic() - begun >= trial.delay_s or moment.ends(lines)):
            return lines
        time.sleep(POLL_S)
    raise NotMadeError(f"the run had ended before: {trial.moment}")
