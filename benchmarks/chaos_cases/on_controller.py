"""Faults of the controller."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from random import Random

from benchmarks.chaos_cases.subject import NotMadeError, Scene

LARGE = 1 << 20
"""A wheel of this size takes a moment to be sent."""


def send_signal(number: signal.Signals, scene: Scene) -> str:
    """Send a signal to the command and all that it started, as a terminal does."""
    try:
        os.killpg(scene.process.pid, number)
    except ProcessLookupError:
        raise NotMadeError("the command had ended") from None
    return number.name


def start_another(scene: Scene) -> str:
    """Start the same command a second time, and wait for its end."""
    code, last = scene.start_another()
    return f"the second run ended with {code}: {last}"


def damage_wheelhouse(scene: Scene) -> str:
    """Change a byte of a wheel in the cache. Half of the time its time stays, as with damage by a disk."""
    wheels = sorted(path for path in scene.cache.glob("files/*/*/*.whl") if path.stat().st_size >= LARGE)
    if not wheels:
        raise NotMadeError("the cache has no wheel")
    wheel = scene.random.choice(wheels)
    keeps_time = scene.random.random() < 0.5
    flip(wheel, scene.random, keeps_time=keeps_time)
    return f"{wheel.name}, time {'as before' if keeps_time else 'new'}"


def flip(path: Path, random: Random, *, keeps_time: bool) -> None:
    """Change the lowest bit of a byte of a file where it stands."""
    before = path.stat()
    with path.open("r+b") as file:
        place = random.randrange(before.st_size)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    if keeps_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
