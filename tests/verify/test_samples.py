"""Metrics in Prometheus' text format, as engines offer them."""

from __future__ import annotations

import pytest

from verify.serving.samples import TOKENS, is_at_work, samples, totals

TEXT = (
    "# HELP vllm:prompt_tokens_total Prompt tokens.\n"
    'vllm:prompt_tokens_total{engine="0"} 10.0\nvllm:prompt_tokens_total{engine="1"} 5e0\n'
    'vllm:generation_tokens_total{engine="0"} 2.0\nvllm:iteration_tokens_total_sum{engine="0"} 99.0\n'
    'http_requests_total{handler="/v1/{\\"model}",status="5xx"} 3.0\nprocess_open_fds 12\n'
)


def test_labels_are_added_and_other_metrics_ignored() -> None:
    assert totals(TEXT, (*TOKENS, "missing")) == dict(zip((*TOKENS, "missing"), (15.0, 2.0, 0.0), strict=True))


def test_labels_may_contain_braces_and_quotes_or_be_missing() -> None:
    assert samples(TEXT)[-2:] == [
        ("http_requests_total", 'handler="/v1/{\\"model}",status="5xx"', 3.0),
        ("process_open_fds", "", 12.0),
    ]


@pytest.mark.parametrize(
    ("metric", "works"), [("num_requests_running", True), ("num_requests_waiting", True), ("num_preemptions", False)]
)
def test_an_engine_with_requests_is_at_work(metric: str, works: bool) -> None:
    assert is_at_work(f'vllm:{metric}{{engine="0"}} 1.0\n') is works
