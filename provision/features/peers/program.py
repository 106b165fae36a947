"""A program of this product in a host's incoming folder, which reports what it moves as lines of JSON.

Functions raise SourceError where the host cannot run it, or it does not come to its end; StageError where the disk is too small or the
folder cannot be used; and TransportError where the connection from here breaks.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from provision.core.errors import RemoteCommandError, SourceError
from provision.core.json_text import parse_object
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.channel import Channel
from provision.fleet.ssh.session import Session
from provision.fleet.ssh.upload import PEER_FOLDER, check_space, list_remote, part_name

ANSWER_S = 30.0
SILENCE_S = 60.0
"""A transfer that moves nothing for so long is broken off. OpenSSH itself notices a dead host after as long."""


def start(session: Session, folder: str, program: Path, word: str) -> Channel:
    """Start a program in a host's incoming folder."""
    own = f"{folder}/{PEER_FOLDER}"
    done = session.run(f"umask 077; mkdir -p -- {shlex.quote(own)}; command -v python3")
    if done.rc != 0:
        raise SourceError(
            f"host {session.host} cannot run {program.name}: {done.stderr.strip() or 'python3 is not found'}"
        )
    try:
        session.write(f"{own}/{program.name}", program.read_bytes(), mode=0o600)
    except RemoteCommandError as error:
        raise SourceError(error.text, hint=error.hint) from None
    return session.open_channel(f"exec python3 -I {shlex.quote(f'{own}/{program.name}')} {word}")


def exchange(session: Session, channel: Channel, request: dict[str, Any], *, timeout_s: float = ANSWER_S) -> str:
    """Send a program its request, and return its first line."""
    try:
        channel.writeline(json.dumps(request))
    except OSError as error:
        raise SourceError(f"a program on host {session.host} ended: {error}") from None
    return channel.readline(timeout_s=timeout_s)


def get_files(
    session: Session,
    folder: str,
    files: Sequence[StagedFile],
    *,
    program: Path,
    word: str,
    request: dict[str, Any],
    progress: Callable[[int], None],
    lacks: list[str] | None = None,
) -> int:
    """Let a host get files that it lacks, under their names in transfer; return the bytes that came.

    `Session.send` verifies them and sends what is missing.

    Args:
        request: What the program is told besides the files.
        progress: Gets the bytes of each report.
        lacks: Gets why files did not come.
    """
    remote = list_remote(session, folder)
    missing = [(file, remote.part(file)) for file in files if not remote.has(file)]
    rows = [
        {**file.model_dump(include={"name", "sha256", "size", "hub_path"}), "offset": offset, "part": part_name(file)}
        for file, offset in missing
        if offset < file.size
    ]
    if not rows:
        return 0
    check_space(f"host {session.host}", folder, sum(row["size"] - row["offset"] for row in rows), remote.free)
    channel, moved = start(session, folder, program, word), 0
    try:
        record = _record(exchange(session, channel, {**request, "files": rows}, timeout_s=SILENCE_S))
        while isinstance(count := record.get("bytes"), int) or "lacks" in record:
            if isinstance(count, int):
                moved += count
                progress(count)
            elif lacks is not None:
                lacks.append(str(record.get("why")))
            record = _record(channel.readline(timeout_s=SILENCE_S))
        if "done" not in record:
            problem = record.get("problem") or channel.error_text() or f"nothing moved for {SILENCE_S:g} s"
            raise SourceError(str(problem))
    finally:
        channel.close()
    return moved


def _record(line: str) -> dict[str, Any]:
    try:
        return parse_object(line)
    except ValueError:
        return {}
