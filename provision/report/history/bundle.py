"""A run as one archive for a bug report: text only, secrets masked."""

import io
import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from provision import __version__
from provision.core.files import write_atomically
from provision.core.formatting import format_bytes
from provision.core.json_text import parse
from provision.core.redaction import redact, scrub
from provision.report.layout import count
from provision.report.run_files import CHANGES_FILE, PHASES_FILE

LARGEST = 8 * 2**20
"""Maximum size of a file in bytes; larger files are left out and listed."""
LIST = "LEFT-OUT.txt"


@dataclass
class Bundle:
    """A written archive and what its owner should know about it."""

    path: Path
    files: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """File and reason."""
    masked: list[str] = field(default_factory=list)
    """Files in which something was masked."""


def bundle(folder: Path, target: Path) -> Bundle:
    """Write a run's folder as a compressed archive that only its owner can read.

    Raises:
        OSError: The archive cannot be written.
    """
    made = Bundle(target)
    texts = _texts(folder, made)
    root = f"firstlight-{folder.name}"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, text in texts.items():
            safe = _redacted(name, text)
            if safe != text and "[hidden]" in safe:
                made.masked.append(name)
            _add(archive, f"{root}/{name}", safe)
        made.files = len(texts)
        _add(archive, f"{root}/{LIST}", _list(made))
    write_atomically(target, content.getvalue(), mode=0o600)
    return made


def _texts(folder: Path, made: Bundle) -> dict[str, str]:
    """Return every text file of a run, by its relative path."""
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file():
            made.left_out.append((name, "a link or a special file"))
        elif path.stat().st_size > LARGEST:
            made.left_out.append(
                (name, f"{format_bytes(path.stat().st_size)}; files up to {format_bytes(LARGEST)} are taken")
            )
        else:
            try:
                content = path.read_bytes().decode()
            except UnicodeDecodeError:
                made.left_out.append((name, "not text: it cannot be searched for secrets"))
            except OSError as error:
                made.left_out.append((name, f"cannot be read: {error.strerror}"))
            else:
                texts[name] = content
    return texts


def _redacted(name: str, text: str) -> str:
    """Return the text without secrets; JSON is masked by key as well."""
    if name.endswith(".jsonl"):
        return "".join(_redacted_json(line) for line in text.splitlines(keepends=True))
    by_names = name in (PHASES_FILE, CHANGES_FILE)
    return _redacted_json(text, indent=2, by_names=by_names) if name.endswith(".json") else redact(text)


def _redacted_json(text: str, indent: int | None = None, *, by_names: bool = False) -> str:
    try:
        return json.dumps(scrub(parse(text), by_names=by_names), indent=indent) + "\n"
    except ValueError:
        return redact(text)


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    """Add a file without owner and time."""
    content = text.encode()
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    archive.addfile(info, io.BytesIO(content))


def _list(made: Bundle) -> str:
    lines = [
        f"Firstlight {__version__}: {count(made.files, 'file')} of a run.",
        "Secrets are masked: `[hidden]`. Never part of a run: the API key, passwords, wheels, models, the service's own log.",
        "Names of hosts and people, and addresses, are as they are.",
        "",
        "Left out:",
        *([f"  {name}: {reason}" for name, reason in made.left_out] or ["  nothing"]),
    ]
    return "\n".join(lines) + "\n"


def render(made: Bundle) -> str:
    """Return a report on the archive for its owner."""
    lines = [f"{made.path}: {count(made.files, 'file')}, {format_bytes(made.path.stat().st_size)}"]
    if made.masked:
        lines.append(f"masked in: {', '.join(made.masked)}")
    lines += [f"left out: {name}: {reason}" for name, reason in made.left_out]
    return "\n".join(lines)
