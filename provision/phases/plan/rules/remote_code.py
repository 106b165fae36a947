"""Python code of the model's repository, which vLLM would run on the host."""

from __future__ import annotations

from collections.abc import Iterator

from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, host_rule, reject

SOURCE = "vllm/transformers_utils/config.py and vllm/tokenizers/hf.py, 0.32.0"


@host_rule(
    "A model that needs Python code of its repository has the user's explicit trust.",
    reads=("settings.model", "settings.trust_remote_code"),
    order=110,
)
def evaluate(profile: HostProfile) -> Iterator[Verdict]:
    served = profile.served_model
    if served is None or served.shape.match.code is None:
        return
    facts = {"model": served.model, "trust_remote_code": served.wanted.trust_remote_code}
    why = f"model `{served.model}` would run code of its repository on the host ({served.shape.match.code})"
    if served.wanted.trust_remote_code:
        yield accept(f"{why}, and firstlight_trust_remote_code is true", source=SOURCE, **facts)
    else:
        yield reject(f"{why}, and firstlight_trust_remote_code is not true", source=SOURCE, **facts)
