"""Events of NVIDIA's cards (Xid) and switches (SXid) and of AMD's cards in a kernel log, and their meaning (`data/xid.toml`, `data/amdgpu.toml`)."""

import re
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from verify.host.views.kernel_log import Line
from verify.tables import table

_EVENT = re.compile(  # an SXid has two lines more, `Severity` and `Data`: numbers for its vendor
    r"(?:NVRM: (?P<card>Xid)|(?P<switch>SXid)) \((?:PCI:)?(?P<pci>[0-9a-fA-F:.]+)\): (?P<number>\d+)(?!\d|, (?:Severity|Data) )"
)
_AMD = re.compile(r"\bamdgpu (?P<pci>[0-9a-f]{4}:[0-9a-f:.]+): (?:amdgpu: )?(?P<text>.*)")
_LINK = re.compile(r"(?P<unit>[A-Z][A-Z0-9_]+) (?:Nonf|F)atal .*?\((?P<info>0x[0-9a-f]+) (?P<status>0x[0-9a-f]+)")
_NOT_FATAL = re.compile(r"\bNon-?fatal\b", re.IGNORECASE)
_FATAL = re.compile(r"\bFatal\b")
REASON_SHIFT, REASON_MASK = 20, 0x3F
"""Where the first number of an NVLink's message has the reason why the link went down."""


class Event(NamedTuple):
    """One log line about a card (`Xid`, `amdgpu`) or a switch (`SXid`); `at` is in seconds since 1970."""

    at: float
    what: str
    pci: str
    number: int
    """The vendor's; for AMD the place of the row in the table."""
    text: str

    @property
    def label(self) -> str:
        """Return the event's name."""
        return self.what if self.what == "amdgpu" else f"{self.what} {self.number}"


class Meaning(NamedTuple):
    """What an event means."""

    name: str
    """The vendor's; empty where it has none."""
    kind: str
    """`card`, `process` or `note`, as in the table."""
    means: str
    remedy: str


def events(lines: Iterable[Line], *, without: Collection[str | None] = ()) -> list[Event]:
    """Return the events of cards and switches, in the order of the lines, leaving out those of the addresses in `without`."""
    return [event for line in lines if (event := _event(line)) and event.pci not in without]


def _event(line: Line) -> Event | None:
    text = line.text.strip()
    if match := _EVENT.search(text):
        return Event(line.at, match["card"] or match["switch"], match["pci"].lower(), int(match["number"]), text)
    if match := _AMD.search(text):
        for place, row in enumerate(table("amdgpu")["event"]):
            if re.search(row["pattern"], match["text"]):
                return Event(line.at, "amdgpu", match["pci"], place, text)
    return None


def explained(text: str) -> str | None:
    """Return the meaning of a log line and what to do; None if it shows no event."""
    found = events([Line(0.0, text)])
    if not found:
        return None
    meaning = meaning_of(found[0])
    named = f" ({meaning.name})" if meaning.name else ""
    return f"{found[0].label}{named}: {meaning.means}. What to do: {meaning.remedy}"


def meaning_of(event: Event) -> Meaning:
    """Return the meaning of an event; its text says more than its number where the table has details."""
    known = table("amdgpu" if event.what == "amdgpu" else "xid")
    if event.what == "amdgpu":
        row = known["event"][event.number]
    else:
        row = _switch_row(event) if event.what == "SXid" else _card_row(event)
    keys = (row["now"], row.get("then")) if "now" in row else known["usual"][row["kind"]]
    remedy = "; if it comes back, ".join(known["action"][key] for key in keys if key in known["action"])
    return Meaning(row.get("name", ""), row["kind"], row.get("means") or known["about"]["unused"], remedy)


def _switch_row(event: Event) -> dict[str, Any]:
    is_fatal, is_not = _FATAL.search(event.text) is not None, _NOT_FATAL.search(event.text) is not None
    unknown = {"kind": "process", "means": f"a {'fatal' if is_fatal else 'non-fatal'} error of a switch"}
    row = next((row for row in table("xid")["sxid"] if event.number in row["numbers"]), unknown)
    kind = "card" if is_fatal else "process" if is_not and row["kind"] == "card" else row["kind"]
    usual = {"now": "reboot", "then": "fabric"} if kind == "card" else {"now": "fabric"}
    return {**usual, **row, "kind": kind}


def _card_row(event: Event) -> dict[str, Any]:
    known = table("xid")
    row = known["xid"].get(str(event.number), {"kind": "process", "means": known["about"]["unknown"]})
    of_number = (each for each in known["detail"] if each["number"] == event.number)
    details = next((each for each in of_number if re.search(each["pattern"], event.text)), row)
    return {**row, **details, **(_nvlink_details(event.text) if row.get("graded") else {})}


def _nvlink_details(text: str) -> dict[str, Any]:
    """Return what the text of an Xid 144 to 150 says: whether it is fatal, the unit, the bits of its error."""
    is_fatal = _NOT_FATAL.search(text) is None
    found: dict[str, Any] = {} if is_fatal else {"kind": "process"}
    link = _LINK.search(text)
    row = next((each for each in table("xid")["nvlink"] if link and link["unit"] in each["units"]), None)
    if link is None or row is None:
        return found
    bits, reason = int(link["status"], 16), int(link["info"], 16) >> REASON_SHIFT & REASON_MASK
    by_reason = (action for action, reasons in row.get("reasons", {}).items() if reason in reasons)
    now = "reset_gpu" if is_fatal or bits & row.get("reset", 0) else "ignore"
    if now == "ignore" and bits & row.get("recovery", 0):
        now = "recovery"
    if not is_fatal and bits and not bits & ~row.get("ignore", 0):
        found["kind"] = "note"
    return {**found, "means": row["means"], "now": now, "then": row.get("then") or next(by_reason, "contact_support")}
