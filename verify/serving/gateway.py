"""The contract of the served API, asked of a gateway as its clients ask it. For the gateway's own host, whose Python may be 3.8.

Read from stdin, as JSON: `gateway` (`host`, `port`, `certificate`), `key` of a client, and `models`: by name, a list of the hosts behind
it (`host`, `port`, `key`, `task`). Written to stdout: the findings.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from verify.serving.client import ANOTHER_KEY, Client, Endpoint, NoAnswerError, RequestError
from verify.serving.contract import Asker, ask_all
from verify.tables import table

KEY_IS_UNKNOWN = 401


def main() -> None:
    """Read the request, ask, and write what was found."""
    sys.stdout.write(json.dumps(ask(json.load(sys.stdin))))


def ask(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was found for each model: the names of what was asked, and texts on what deviates or stayed silent."""
    found: dict[str, Any] = {"asked": [], "late": [], "inherited": [], "deviations": [], "silent": None}
    silence_s = table("contract")["silence_s"]
    for model, hosts in request["models"].items():
        client = Client(Endpoint(model=model, **request["gateway"]), silence_s, request["key"])
        task = hosts[0]["task"]
        behind = [
            Asker(Client(Endpoint(one["host"], one["port"], model), silence_s, one["key"]), is_builtin=False, task=task)
            for one in hosts
        ]
        try:
            found["deviations"] += [
                f"expected 401 for a wrong key, got {status}"
                for status in (client.status("GET", "/v1/models", key) for key in (ANOTHER_KEY, None))
                if status != KEY_IS_UNKNOWN
            ]
            one = ask_all(Asker(client, is_builtin=False, task=task), has_tools=False, behind=behind)
        except NoAnswerError as silence:
            found["silent"] = f"{model}: {silence}"
        except RequestError as problem:
            found["deviations"].append(f"{model}: {problem}")
        else:
            names = {"asked": one.checked, "late": one.late, "inherited": one.inherited, "deviations": one.deviations}
            for name, texts in names.items():
                found[name] += texts
    return found
