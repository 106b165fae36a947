"""More than a hundred kinds of secrets: none remains in an archive, a record or the doctor's output."""

import ast
import json
import random
import re
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.redaction import MASK, redact, scrub
from provision.report.history.bundle import bundle
from tests.report.sample import Folder, host
from tests.report.test_bundle import contents
from verify.doctor import render
from verify.doctor.engine import diagnose_texts
from verify.secret_masking import masked

ROOT = Path(__file__).resolve().parents[2]
LETTERS = {
    "A": "ABCDEF0123456789",
    "a": string.ascii_lowercase + string.digits,
    "x": "0123456789abcdef",
    "w": string.ascii_letters + string.digits,
    "b": string.ascii_letters + string.digits + "+/",
    "d": string.digits,
}
_PLACE = re.compile(r"<(?:([^<>:]+):)?([AaxwbdP]|p)(\d+)>")


def corpus() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Return each line with invented secrets in it, and these secrets."""
    made = random.Random(7)
    for line in tomllib.loads((Path(__file__).parent / "secrets.toml").read_text())["lines"].strip().splitlines():
        secrets: list[str] = []

        def value(found: re.Match[str], secrets: list[str] = secrets) -> str:
            prefix, kind, length = found[1] or "", found[2], int(found[3])
            if kind == "p":
                halves = ("".join(made.choices(LETTERS["w"], k=length // 2)) for _ in range(2))
                text = " ".join(halves)
            else:
                # a digit and a letter in each: letters alone might be a word
                text = "".join(made.choices(LETTERS[kind], k=length - 2)) + ("7d" if kind not in "dA" else "77")
            secrets.append(text)
            return prefix + text

        yield _PLACE.sub(value, line), tuple(secrets)


CORPUS = list(corpus())


def left(text: str, secrets: tuple[str, ...]) -> list[str]:
    """Return secrets of which more than a short piece is still in the text; user and host names of a line do not count."""
    return [secret for secret in secrets if len(secret) >= 8 and secret in text]


def test_a_secret_is_masked_as_text_as_json_and_as_a_key() -> None:
    assert len(CORPUS) > 100
    for line, secrets in CORPUS:
        assert secrets, line
        for text in (
            redact(line),
            redact(f"2026-11-20T10:15:00Z INFO [x] said: {line}\nand more"),
            json.dumps(scrub({"text": line})),
            json.dumps(scrub([line, {"deep": [line]}])),
            json.dumps(scrub({line: 1})),
            redact(json.dumps({"text": line})),
        ):
            assert left(text, secrets) == [], line
            assert MASK in text, line
            assert redact(text) == text, line


def test_no_secret_survives_in_an_archive(tmp_path: Path) -> None:
    made = Folder(tmp_path / "20261120T101500Z", [host("a")])
    lines = "\n".join(line for line, _ in CORPUS)
    made.run.path("install").mkdir()
    made.run.path("install/ansible.log").write_text(lines)
    made.run.path("other.json").write_text(
        json.dumps({"lines": [line for line, _ in CORPUS], "keys": {line: [] for line, _ in CORPUS}})
    )
    made.run.path("events.jsonl").write_text(
        "".join(json.dumps({"kind": "x", "text": line}) + "\n" for line, _ in CORPUS)
    )
    texts = contents(bundle(made.run.folder, tmp_path / "x.tar.gz").path).values()
    assert len(texts) >= 4
    for _, secrets in CORPUS:
        assert not [secret for text in texts for secret in left(text, secrets)]


@pytest.mark.parametrize(
    "value", [12345678, 3.25, ["a-secret", "b"], {"user": "a-secret"}, "a b c", "/looks/like/a/path but is none"]
)
def test_every_value_below_a_secrets_key_is_masked(value: object) -> None:
    assert scrub({"db": {"password": value}}) == {"db": {"password": MASK}}


def test_a_value_is_masked_by_its_key_at_any_depth() -> None:
    value = {"evidence": [{"env": {"HF_TOKEN": "plain-words", "PORT": "8000"}}], "api_key": "plain-words"}
    assert scrub(value) == {"evidence": [{"env": {"HF_TOKEN": MASK, "PORT": "8000"}}], "api_key": MASK}


def test_names_of_models_and_hosts_are_none_of_secrets() -> None:
    gateway = {"models": {"acme/reward-token": ["llm-auth"]}, "out": {"llm-auth": "it is down"}}
    assert scrub({"gateway": gateway}) == {"gateway": gateway}
    assert scrub({"llm-auth": {"api_key": "plain"}}, by_names=True) == {"llm-auth": {"api_key": MASK}}


def test_text_that_only_mentions_a_secret_stays() -> None:
    document = {
        "first_token": 19.9,
        "api_key": True,
        "password": None,
        "token": "",
        "key_file": "/opt/x/service.env",
        "tokens_expected": [1, 2],
    }
    assert scrub(document) == document


@pytest.mark.parametrize("name", ["classifier_from_token", "bos_token", "eos_token", "pad_token"])
def test_a_token_of_a_vocabulary_is_no_secret(name: str) -> None:
    for text in (f'{{"{name}": "endoftext"}}', f'{{"{name}": ["no", "yes"]}}'):
        assert redact(text) == text


def test_the_doctor_prints_no_secret() -> None:
    for line, secrets in CORPUS:
        log = f"RuntimeError: CUDA error: no kernel image is available for execution on the device {line}\n"
        diagnosis = diagnose_texts({"x.log": log}, None)
        assert left(render.render_text("x.log", diagnosis, top=3), secrets) == []
        assert left(json.dumps(render.to_json("x.log", diagnosis, top=3)), secrets) == []


def test_the_doctor_prints_no_secret_in_its_advice() -> None:
    for line, secrets in CORPUS:
        log = f"ERROR: Failed to build {line} when installing build dependencies\n"
        diagnosis = diagnose_texts({"x.log": log}, guess=False)
        assert left(render.render_text("x.log", diagnosis, top=3), secrets) == []
        assert left(json.dumps(render.to_json("x.log", diagnosis, top=3)), secrets) == []


def test_the_doctor_prints_no_end_of_a_secret_whose_name_is_cut_off() -> None:
    line = (
        f"api_key='{'S3cret' * 60}' RuntimeError: CUDA error: no kernel image is available for execution on the device"
    )
    assert "S3cret" not in render.render_text("x.log", diagnose_texts({"x.log": line}), top=3)


def hints() -> Iterator[str]:
    """Return every hint of the product."""
    for path in sorted((ROOT / "provision").rglob("*.py")) + sorted((ROOT / "verify").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for word in getattr(node, "keywords", ()):
                text = getattr(word.value, "value", None)
                if word.arg in ("hint", "remedy") and isinstance(text, str):
                    yield text


def test_our_own_hints_stay_whole() -> None:
    texts = list(hints())
    assert any("--why-not vllm==" in text for text in texts)
    assert [text for text in texts if redact(text) != text] == []


@pytest.mark.parametrize(
    "text",
    [
        "sudo sed -n s/^VLLM_API_KEY=//p /opt/firstlight/etc/service.env | sed 's/^/Authorization: Bearer /' | curl -sS http://h:8000/v1/models -H @-",
        "see /opt/firstlight/envs/3ff3143a1ead21c5/lib/python3.11/site-packages",
        "max_tokens=400 token_id:1012 tokens: 32",
        "git+ssh://git@github.com/org/x",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "vllm-0.32.0+cu130-cp38-abi3-manylinux_2_28_x86_64.whl",
        "a password: do this",
        "time to first token: 0.35 s, first_token: 19.9, per output token = 12",
        "the key file has mode 0600",
        "GPU-5d3c1a52-96a7-4f2c-8c1e-3f0a9a0d5b11 0000:3b:00.0",
        "firstlight_api_key: true makes a key in a file of mode 0600",
        "the key is in /opt/firstlight/etc/service.env",
        "sed -n s/^VLLM_API_KEY=//p /opt/firstlight/etc/service.env",
        'curl -H "Authorization: Bearer $(cat key)" http://127.0.0.1:8000',
        "32 of 32 greedy tokens equal the reference",
        "hash sha256:f072f4d804ea359e4eaf198b1af7a8b0943881a87f31bb764f8bf219bb9419e0 does not fit",
        "max_new_tokens=32",
        "wrong attention: decode one token: largest error 4.0e-03, 2.1e-03 allowed",
        "decode one token: mean error 4.0e-03",
        "one token: right",
        "token file: /home/ops/.token",
        "--api-key --port 8000",
        "sudo asks for a password: --ask-become-pass",
        "make one without a password: minisign -G",
        "sudo asks no password: then nothing is to be done",
        "basic credentials for the index",
        "set firstlight_api_key: true, or firstlight_api_key=false",
        "git clone https://ops@code.example.net/x",
        "cat: /etc/passwd: Permission denied",
        "manifest for the image with digest sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "'api_key': [], 'lora_modules': ['tone=/srv/tone'], 'api_key': ['$KEY']",
        "args: ['vllm', 'serve', 'm', '--api-key', '--port', '8000']",
        "http://one:8000,http://two:8000 of ops@example.net",
        "serve hf-internal-testing/tiny-random-LlamaForCausalLM --tokenizer hf-internal-testing/llama-tokenizer",
        "hosts hf-inference-01, sk-training-h100-1 and sk-inferencecluster01: 3 failed",
    ],
)
def test_text_without_a_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "key",
    [
        "sk-J8hQ-Ztq2_aWm5-bYx7Rk_c3Vn0-dLp9Gs_e4Tf6-hU",  # as the gateway's step makes one
        "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",
        "sk-lf-1f2e3d4c-5b6a-4789-8a9b-0c1d2e3f4a5b",
        "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
        "sk-Vx3Api9Fg4JkLm2Pq",
    ],
)
def test_a_key_that_begins_with_sk_is_masked(key: str) -> None:
    assert redact(f"{key} /{key} a-{key}") == f"{MASK} /{MASK} a-{MASK}"


@given(st.text())
def test_masking_a_text_again_changes_nothing(text: str) -> None:
    assert masked(masked(text)) == masked(text)
