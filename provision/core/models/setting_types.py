"""Types of settings: what their values look like, with texts for error messages and the reference page."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field


def _number(value: Any) -> Any:
    """Reject booleans, which Python accepts as numbers.

    Raises:
        ValueError: The value is a boolean.
    """
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers")  # noqa: TRY004 - what pydantic takes for a wrong value
    return value


def _exact(value: Any) -> Any:
    """Return a version alone as the requirement of exactly that version, and every other value as it is."""
    is_version = isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)+(\.?(a|b|rc|post|dev)[0-9]+)*", value)
    return f"=={value}" if is_version else value


Backend = Annotated[str, Field(pattern=r"^(auto|flash|[A-Z][A-Z0-9_]*)$")]
VllmPolicy = Annotated[
    str,
    Field(pattern=r"^(latest|newest|none|(==|>=)[0-9]+(\.[0-9]+)*(\.?(a|b|rc|post|dev)[0-9]+)*)$"),
    BeforeValidator(_exact),
]
TorchPolicy = Annotated[str, Field(pattern=r"^(managed|existing|==[0-9]+\.[0-9]+\.[0-9]+)$"), BeforeValidator(_exact)]
FlashAttnPolicy = Annotated[
    str,
    Field(pattern=r"^(auto|bundled|package|both|none|==[0-9]+(\.[0-9]+)*(\.?(a|b|rc|post|dev)[0-9]+)*)$"),
    BeforeValidator(_exact),
]
DriverPolicy = Annotated[
    str,
    Field(
        coerce_numbers_to_str=True,
        pattern=r"^(keep|install|upgrade|==[0-9]{3}(\.[0-9]+){1,2}|(==)?[0-9]{3}(\.\*)?)$",
    ),
    BeforeValidator(_exact),
]
Prefix = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._+@-]+)+/?$")]
Word = Annotated[str, Field(pattern=r"^\S+$")]
Address = Annotated[str, Field(pattern=r"^(https?://[^\s/]|file:///)\S*$")]
ToolkitVersion = Annotated[str, Field(coerce_numbers_to_str=True, pattern=r"^[0-9]+\.[0-9]+$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
ClientName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Text = Annotated[str, Field(coerce_numbers_to_str=True, pattern=r"^[^\n\x00]*$")]
GpuIndex = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Whole = Annotated[int, BeforeValidator(_number)]
Share = Annotated[float, BeforeValidator(_number)]
Source = Literal["auto", "controller", "peers", "host", "path"]
SourceKind = Literal["wheels", "interpreter", "model"]
"""What comes from a source of its own."""
CHAT_TEMPLATE = "chat_template.jinja"
"""A model's file with its chat template, which transformers prefers to the one in tokenizer_config.json."""


def setting(default: Any, description: str, *, allowed: str, **constraints: Any) -> Any:
    """Return a field with its texts for error messages and the reference page."""
    return Field(default=default, description=description, json_schema_extra={"allowed": allowed}, **constraints)


def port_setting(default: int, description: str) -> Any:
    return setting(default, description, allowed="a whole number from 1 to 65535", ge=1, le=65535)
