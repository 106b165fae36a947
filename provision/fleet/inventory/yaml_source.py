"""The files that an inventory is made of, and checks of them for what Ansible ignores: syntax, unknown keys, duplicate keys."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from provision.core.errors import InventoryError

_VARIABLES = ("group_vars", "host_vars")


def files_of(source: Path) -> list[Path]:
    """Return every file of an inventory, including its variables."""
    roots = [source] if source.is_dir() else [source, *(source.parent / name for name in _VARIABLES)]
    files: list[Path] = []
    for root in roots:
        if root.is_dir():  # walked with os, as Path.rglob passes over folders behind links
            found = (Path(folder) / name for folder, _, names in os.walk(root, followlinks=True) for name in names)
            files += sorted(path for path in found if path.is_file() and not path.name.startswith("."))
        elif root.exists():
            files.append(root)
    return files


def is_variables(file: Path, source: Path) -> bool:
    """Return whether a file contains variables, not groups."""
    base = source if source.is_dir() else source.parent
    return any(part in _VARIABLES for part in file.relative_to(base).parts[:-1])


def _is_yaml(file: Path, source: Path) -> bool:
    """Return whether Ansible reads a file as YAML and nothing else; in folders it leaves out notes, templates and backups."""
    folders = file.relative_to(source if source.is_dir() else source.parent).parts[:-1]
    if any(part.startswith(".") or part == "vars_plugins" for part in folders):
        return False
    return file.suffix in _YAML or (is_variables(file, source) and not file.suffix and not file.name.endswith("~"))


MOST_HOSTS = 100_000
"""Hosts that one line may name: Ansible keeps each in memory."""
_DIGITS = 18
"""No number of a host is longer."""
_BEYOND = 10**18
"""What is counted where a number is longer."""
_RANGE = re.compile(r"\[(\d+):(\d+)(?::(\d+))?\]")


def hosts_of_ranges(text: str) -> int:
    """How many names the ranges in one line make, each times the others."""
    found = 1
    for first, last, step in (match.groups() for match in _RANGE.finditer(text)):
        if len(first) > _DIGITS or len(last) > _DIGITS:
            return _BEYOND
        found *= max(1, (int(last) - int(first)) // max(1, int((step or "1")[:_DIGITS])) + 1)
    return found


GROUP_KEYS = ("hosts", "vars", "children")
MOST_DEPTH = 64
"""Maximum nesting: YAML's loader crashes at about ten thousand levels, Ansible's earlier."""
MOST_ALIASED = 1_000_000
"""Maximum number of values added by aliases, which can grow exponentially."""
_YAML = (".yml", ".yaml", ".json")


def check(source: Path) -> None:
    """Check the files of an inventory.

    Raises:
        InventoryError: The first error, with file, line and column.
    """
    for file in files_of(source):
        in_variables = is_variables(file, source)
        if not in_variables:
            _check_ranges(file)
        if not _is_yaml(file, source):
            continue
        document = _compose(file)
        if document is None:
            if not in_variables:
                raise InventoryError(f"{file} is empty", hint="an inventory starts with `all:`; see inventory/example")
            continue
        keys = [key for mapping in _mappings(document) for key, _ in mapping.value]
        for key in (key for key in keys if not isinstance(key, yaml.ScalarNode)):
            raise InventoryError(
                f"{_at(file, key)}: a key is no name here; an unquoted {{{{ is read as a mapping",
                hint='quote the whole value: firstlight_port: "{{ base_port }}"',
            )
        for key in _repeated(document):
            raise InventoryError(f"{_at(file, key)}: {key.value!r} is set twice", hint="keep one of the two")
        if not in_variables:
            _check_groups(document, file)
        elif not _is_null(document):
            _mapping(document, file, "variables")


def positions_of(source: Path, variable: str) -> list[str]:
    """Return where a variable is set in YAML files, as `file:line`."""
    found = []
    for file in files_of(source):
        if _is_yaml(file, source):
            try:
                document = _compose(file)
            except InventoryError:
                continue
            found += [
                f"{file}:{key.start_mark.line + 1}"
                for mapping in _mappings(document)
                for key, _ in mapping.value
                if key.value == variable
            ]
    return found


def _compose(file: Path) -> yaml.Node | None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InventoryError(
            f"{file} cannot be read: {error}", hint="an inventory is UTF-8 text that you may read"
        ) from None
    if text.startswith("$ANSIBLE_VAULT"):
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_depth(yaml.parse(text, Loader=loader), file)
        document = yaml.compose(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(file)
        raise InventoryError(
            f"{place}: this is not valid YAML: {error.problem or error.context}",
            hint="look at that line and the one before: indentation, a missing colon or an unquoted { or %",
        ) from None
    except yaml.YAMLError as error:
        raise InventoryError(
            f"{file}: this is not valid YAML: {error}", hint="an inventory is UTF-8 text without control characters"
        ) from None
    if document is not None:
        _check_aliases(document, file)
    return document


def _check_ranges(file: Path) -> None:
    """Check host ranges in any format, because Ansible expands all of them first."""
    if os.access(file, os.X_OK):
        return  # a program that prints an inventory
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if (count := hosts_of_ranges(line)) > MOST_HOSTS:
            raise InventoryError(
                f"{file}, line {number}: a range of {count} hosts; an inventory has up to {MOST_HOSTS}",
                hint="correct the range: gpu-[1:64] names 64 hosts",
            )


def _check_depth(events: Iterable[yaml.Event], file: Path) -> None:
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise InventoryError(
                f"{file}{_line(event)}: more than {MOST_DEPTH} lists and mappings in one another",
                hint="an inventory needs a few levels: correct the brackets or the indentation",
            )


def _line(event: yaml.Event) -> str:
    return f", line {event.start_mark.line + 1}" if event.start_mark else ""


def _check_aliases(document: yaml.Node, file: Path) -> None:
    """Reject an alias inside its own node, and aliases that expand to too many values."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    pending = [(document, False)]
    while pending:
        node, closing = pending.pop()
        inner = _inner(node)
        if closing:
            open_nodes.remove(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in inner)
        elif id(node) in open_nodes:
            raise InventoryError(
                f"{_at(file, node)}: an alias makes this part of itself", hint="take the alias (`*name`) out of it"
            )
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            pending.append((node, True))
            pending += [(child, False) for child in inner]
    if sizes[id(document)] - len(sizes) > MOST_ALIASED:
        raise InventoryError(
            f"{file}: its aliases stand for more than {MOST_ALIASED} values",
            hint="write out what they are to stand for",
        )


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _mapping(node: yaml.Node, file: Path, what: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise InventoryError(
            f"{_at(file, node)}: {what} must be a mapping (`name: value`)", hint="see inventory/example"
        )
    return list(node.value)


def _check_groups(document: yaml.Node, file: Path) -> None:
    groups = _mapping(document, file, "an inventory")
    if any(key.value == "plugin" for key, _ in groups):
        return  # the configuration of an inventory plugin: Ansible's own
    pending = [(f"group {key.value}", group) for key, group in groups]
    while pending:
        what, group = pending.pop()
        if not _is_null(group):
            pending += _check_group(what, group, file)


def _check_group(what: str, group: yaml.Node, file: Path) -> list[tuple[str, yaml.Node]]:
    """Check one group and return its children."""
    children: list[tuple[str, yaml.Node]] = []
    for key, value in _mapping(group, file, what):
        if key.value not in GROUP_KEYS:
            raise InventoryError(
                f"{_at(file, key)}: {what} has {key.value!r}; a group has only {', '.join(GROUP_KEYS)}",
                hint="variables go below `vars:`, hosts below `hosts:`, each with a colon",
            )
        is_name = isinstance(value, yaml.ScalarNode) and key.value != "vars"  # Ansible takes one name without a colon
        entries = [] if is_name or _is_null(value) else _mapping(value, file, f"{key.value} of {what}")
        if key.value == "children":
            children += [(f"group {name.value}", child) for name, child in entries]
        elif key.value == "hosts":
            for name, variables in entries:
                if not _is_null(variables):
                    _mapping(variables, file, f"host {name.value}")
    return children


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _mappings(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Yield every mapping once, also with aliases."""
    pending = [node] if node is not None else []
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, yaml.MappingNode):
            yield current
        pending += _inner(current)


def _repeated(document: yaml.Node) -> Iterator[yaml.ScalarNode]:
    for mapping in _mappings(document):
        seen = set()
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    yield key
                seen.add(key.value)


def _at(file: Path, node: yaml.Node) -> str:
    return f"{file}, line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"
