"""Any output of a host gives facts: never a traceback, and always a record that can be written and read again."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provision.core.models.facts import HostFacts
from provision.phases.probe.assemble import parse
from tests.probe.test_recorded import CASES, RECORDED

pytestmark = pytest.mark.slow

TEXTS = [(RECORDED / f"{name}.txt").read_text(encoding="utf-8") for name in CASES]
SECTIONS = sorted(
    {line.split(" ")[2] for text in TEXTS for line in text.split("\n") if line.startswith("@@") and " begin " in line}
)
RELAXED = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

# Pieces that parsers look for, so that garbage reaches deep into them.
WORDS = st.sampled_from(
    [
        *("=", ":", "|", " ", "\n", "\t", "/", "[", "]", "{", "}", '"'),
        *("0", "9" * 30, "-1", "٣", "\ud800", "nan", "1e999"),
        *("<gpu>", "</gpu>", "<nvidia_smi_log>", "</nvidia_smi_log>", '<!DOCTYPE a [<!ENTITY b "c">]>', "&b;", "GPU-"),
        *("Agent 1\n", "  Name: gfx", "  BDFID: 99999999", "LISTEN 0 1 [::]:99999 x", "path=/\n", " 1 2 -3 4% /"),
        *("python=/a|3.9|x|y", "program=", "toolkit=/", "manager=systemd\nLoadState=loaded\nMainPID=", ": FAILED"),
        *("/sys/a/nodes/0/properties:simd_count 8", "online=0-99999999", "efivar= ", "environment=", "current=/"),
        *("/sys/bus/pci/devices/0000:00:00.0/class:0x0300", "@@0 file state.json\n", "\n@@0 file", "/.complete"),
        *("[" * 500, '{"a": 1e400}', '{"\\ud800": 1}'),
    ]
)
GARBAGE = st.lists(WORDS | st.text(max_size=20), max_size=25).map("".join)


def check(output: str | bytes) -> None:
    facts = parse("host", output, sent_unix_s=1.0, received_unix_s=2.0)
    assert HostFacts.model_validate_json(facts.model_dump_json()) == facts


@RELAXED
@given(st.binary(max_size=2000))
def test_any_bytes_give_facts(output: bytes) -> None:
    check(output)


@RELAXED
@given(
    st.dictionaries(st.sampled_from(SECTIONS), st.tuples(GARBAGE, st.integers(0, 999), st.text(max_size=30))),
    st.booleans(),
)
def test_any_text_in_any_section_gives_facts(sections: dict[str, tuple[str, int, str]], cut: bool) -> None:
    body = "".join(
        f"@@0 begin {name}\n{text}\n\n@@0 end {name} {status} {reason}\n"
        for name, (text, status, reason) in sections.items()
    )
    check(f"@@0 start\n{body}" + ("" if cut else "@@0 clock 99999999999999.5\n@@0 over ALL\n"))


@RELAXED
@given(st.sampled_from(TEXTS), st.data())
def test_damaged_recordings_give_facts(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 3000)))
    check(text[:start] + data.draw(GARBAGE) + text[end:])


@RELAXED
@given(st.sampled_from(TEXTS), st.integers(0, 70000))
def test_truncated_output_gives_facts(text: str, length: int) -> None:
    check(text.encode()[:length])


def test_the_output_of_a_host_is_limited_section_by_section() -> None:
    name = "X" * 20_000_000
    text = f"@@0 start\n@@0 begin cpu\nmodel name\t: {name}\nModel name: {name}\n@@0 end cpu 0\n@@0 over ALL\n"
    facts = parse("host", text)
    assert len(facts.model_dump_json()) < 100_000
    assert len(facts.cpu.model or "") < 10_000


ENTITIES = "".join(f'<!ENTITY {name} "{f"&{part};" * 10}">' for name, part in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("section", "text"),
    [
        pytest.param("pci", "0000:00:00.0 0x10de 0x2330 0x030200\n" * 1_000_000, id="a million lines"),
        pytest.param(
            "nvidia_smi",
            f'<!DOCTYPE n [<!ENTITY i "lol">{ENTITIES}]>'
            "<nvidia_smi_log><driver_version>&a;</driver_version></nvidia_smi_log>",
            id="entities",
        ),
        pytest.param("installed", "@@0 file state.json\n" + "[" * 100_000, id="lists"),
        pytest.param("memory", f"MemTotal: {'9' * 100_000} kB", id="digits"),
    ],
)
def test_hostile_sections_give_small_facts(section: str, text: str) -> None:
    facts = parse("host", f"@@0 clock 1.0\n@@0 begin {section}\n{text}\n@@0 end {section} 0\n@@0 over ALL\n")
    assert len(facts.model_dump_json()) < 100_000
