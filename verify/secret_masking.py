"""Masking of secrets, by name or by form, before text is printed, saved or sent.

Uses Python 3.9 and the standard library, because controller and hosts share it. Token forms are those that issuers document;
the corpus in tests/secrets has one of each kind.
"""

from __future__ import annotations

import re

MASK = "[hidden]"

_NAMES = (
    r"(?:api[_-]?key|secret|passw(?:or)?d|passwort|passphrase|(?<=[_-])pass(?![a-z])|(?<![a-z])pass(?=[\\\"']*\s*=)|pwd(?![a-z])|(?<!max_)(?<!new_)token(?![a-z])(?![\\\"']*\s*[=:]\s*-?[\d.]+(?![\w-]))|credential"
    r"|(?:private|access|account|master|signing|encryption|shared|storage|license|deploy|ssh|auth|session)[_-]?key(?![a-z])"
    r"|access[_-]?key[_-]?id|client-key-data|connection[_-]?string|identitytoken|(?<![a-z])auth(?=[\\\"']*\s*:\s*[\\]*[\"'])|sas[_-]?url)"
)
_SUFFIX = r"(?:[_-](?:b64|base64|value|data|prod|test|old|new|\d+))?"
_PROSE = (
    r"(?!(?:the|an?|it|is|this|that|give|set|name|check|must|not|no|by|in|of|from|use|see|run|make|put|without|with|what|which|whoever"
    r"|refused|wrong|cannot|needs?|wanted|required|missing|invalid|incorrect|accepted|expired|absent|unset|none|null|true|false|yes|do|for)\b(?!\.\S))"
)
_SENTENCE = r"(?!(?<=token:\s)(?-i:[a-z]{1,12})(?:[\s,;.]|$))"
"""`decode one token: largest error`: a lower-case word."""
_BARE = r"""(?!/|\$|--|\*\*\*|<|\[hidden\]|%[({])(?:[^\s"'\\,;&)}\]]{3,})"""
_QUOTED = (
    r"""(?:"(?:[^"\\\n]|\\.){1,1000}"|'(?:[^'\\\n]|\\.){1,1000}'|\\+"[^"\n]{1,1000}?\\+"|\\+'[^'\n]{1,1000}?\\+')"""
)

# Tokens with a prefix of their own. Each is anchored at a boundary and too long for a normal word.
_TOKENS = r"""
    (?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA)[0-9A-Z]{16} AIza[0-9A-Za-z_-]{30,} ya29\.[0-9A-Za-z_-]{20,}
    GOCSPX-[0-9A-Za-z_-]{20,} 1//0[0-9A-Za-z_-]{20,} (?:hf|api_org)_[A-Za-z0-9]{12,} hf-[A-Za-z0-9_-]{12,}
    sk[_-][A-Za-z0-9_-]{12,} (?:rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,} gh[oprsu]_[A-Za-z0-9]{12,}
    github_pat_[A-Za-z0-9_]{12,} gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|oas)-[A-Za-z0-9_.-]{12,}
    GR1348941[A-Za-z0-9_-]{16,} xox[abeoprs]-[A-Za-z0-9-]{10,} xapp-[A-Za-z0-9-]{10,} xoxe\.[A-Za-z0-9.-]{10,}
    nvapi-[A-Za-z0-9_-]{12,} npm_[A-Za-z0-9]{30,} pypi-[A-Za-z0-9_-]{16,} rubygems_[a-f0-9]{32,}
    dckr_(?:pat|oat)_[A-Za-z0-9_-]{16,} cio[A-Za-z0-9]{32,} crates_[A-Za-z0-9]{24,} oy2[a-z0-9]{40,}
    SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,} key-[a-f0-9]{32} [a-f0-9]{32}-us[0-9]{1,2} (?:AC|SK)[a-f0-9]{32}
    dop_v1_[a-f0-9]{40,} do[or]_v1_[a-f0-9]{40,} shp(?:at|ca|pa|ss)_[a-fA-F0-9]{24,} sq0[a-z]{3}-[A-Za-z0-9_-]{20,}
    EAAA[A-Za-z0-9_-]{40,} EAA[A-Za-z0-9]{60,} lin_(?:api|oauth)_[A-Za-z0-9]{24,} ntn_[A-Za-z0-9]{30,}
    secret_[A-Za-z0-9]{30,} figd_[A-Za-z0-9_-]{24,} PMAK-[a-f0-9]{20,}-[a-f0-9]{20,}
    dp\.(?:pt|st|sa|ct|scim|audit)\.[A-Za-z0-9.]{30,} hv[bsr]\.[A-Za-z0-9_-]{20,} s\.[A-Za-z0-9]{24}(?![A-Za-z0-9])
    [A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{40,} glc_[A-Za-z0-9+/=]{24,} glsa_[A-Za-z0-9]{24,}_[a-f0-9]{8}
    NRAK-[A-Z0-9]{20,} NR(?:II|JS|AL)-[A-Za-z0-9_-]{16,} sntrys_[A-Za-z0-9+/=_-]{24,} phc_[A-Za-z0-9]{30,}
    pul-[a-f0-9]{40} tskey-[a-z]+-[A-Za-z0-9-]{12,} r8_[A-Za-z0-9]{30,} pplx-[A-Za-z0-9]{30,} gsk_[A-Za-z0-9]{30,}
    xai-[A-Za-z0-9]{40,} tgp_v1_[A-Za-z0-9_-]{24,} fw_[A-Za-z0-9]{20,} wandb_v1_[A-Za-z0-9_]{24,}
    dapi[a-f0-9]{32}(?:-\d)? ATATT[A-Za-z0-9_=-]{24,} ATBB[A-Za-z0-9]{24,} AQ\.[A-Za-z0-9_-]{30,} LTAI[A-Za-z0-9]{12,}
    AKID[A-Za-z0-9]{28,} t1\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,} AGE-SECRET-KEY-1[0-9A-Z]{40,}
    [MNO][A-Za-z0-9_-]{22,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,} [0-9]{8,10}:AA[A-Za-z0-9_-]{30,}
    AKCp[A-Za-z0-9]{40,} cmVmdGtu[A-Za-z0-9+/=]{20,} eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.?[A-Za-z0-9_.-]*
    ops_eyJ[A-Za-z0-9_-]{20,} A3-[A-Z0-9]{6}-[A-Z0-9-]{20,} ddp_[A-Za-z0-9]{30,}
""".split()  # noqa: SIM905 - a list would take a line for each
_TOKEN = re.compile(r"(?<![A-Za-z0-9_])(?:" + "|".join(_TOKENS) + ")")
# Password hashes of /etc/shadow, htpasswd, LDAP and frameworks.
_HASHES = (
    r"\$(?:1|2[abxy]?|5|6|7|y|gy|apr1|argon2(?:id|i|d)|scrypt|pbkdf2[a-z0-9_-]*|P|H|S)\$[^\s:\"'\\]{8,}",
    r"\{(?:S?SHA(?:256|512)?|S?MD5|CRYPT|PBKDF2[A-Z0-9-]*)\}[A-Za-z0-9+/=.$*]{8,}",
    r"(?:pbkdf2_sha(?:1|256|512)|bcrypt_sha256|scrypt|argon2)\$[^\s\"']{16,}",
    r"(?<![\w*])\*[0-9A-F]{40}\b",
    r"SCRAM-SHA-(?:1|256)\$[^\s\"']{16,}",
    r"(?<=:)[0-9A-Fa-f]{32}:[0-9A-Fa-f]{32}(?=:::)",
)
_HASH = re.compile("|".join(_HASHES))
_BLOCKS = (
    re.compile(
        r"()(-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z))",
        re.DOTALL,
    ),
    re.compile(r"(Private-Lines: \d+\s+)((?:[A-Za-z0-9+/=]+\s*)+?)(?=Private-MAC|\Z)"),
)
_TRACES = """
    key secret pass pwd token credential auth bearer basic digest negotiate cookie :// connection sas hook sig=
    signature curl wget http mysql mariadb docker podman helm redis-cli login identified ldap
""".split()  # noqa: SIM905 - a list would take a line for each
"""No name pattern matches a line without one of these in lower case, so most lines need only this test."""
_WORD = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z0-9][\w.=/+:~-]{11,}")
_PATTERNS = (
    r"(?im)((?:^|[\"'\s])(?:set-)?cookie[\"']?\s*:\s*[\"']?)(?!\[hidden\]|\s)([^\r\n\"']{4,})",
    r"(?i)(\b(?:bearer|basic|apikey|digest|negotiate|token)\s+)(?!\$|\[hidden\]|(?-i:[a-z']+)\b(?![-_.\d]))([A-Za-z0-9+/_.=~:-]{8,})",
    r"(://[^\s/:@\"']{0,200}:)(?!\[hidden\])([^\s/@\"']+)(?=@)",
    r"(://)([^\s/:@]{24,})(?=@)",
    r"(?i)(https?://)(?!\[hidden\])([^\s/:@\"']{8,})(?=@)",
    r"(?i)(hooks\.slack\.com/(?:services|workflows)/|(?:discord|discordapp)\.com/api/webhooks/\d+/|api\.telegram\.org/bot|[\w.-]{1,60}\.webhook\.office\.com/webhookb2/|open\.feishu\.cn/open-apis/bot/v2/hook/)([^\s\"'<>]{8,})",
    r"(?i)([?&](?:sig|signature|x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|x-oss-signature|token|[a-z_]*token|key|api_?key|secret|password|auth|code)=)(?!\[hidden\])([^\s&\"'#<>]{4,})",
    r"(?i)(\bsshpass\s+-p\s*)(?!\[hidden\]|\$)(" + _QUOTED + r"|\S+)",
    r"(?i)(\b(?:curl|wget|http)\b[^\n|;]{0,200}?\s(?:-u|--user|--proxy-user|-U)[\s=]*[\"']?[^\s:\"']*:)(?!\[hidden\]|\$)([^\s\"']+)",
    r"(?i)(proxy-?auth[\s=]+[\"']?[^\s:\"',]*:)(?!\[hidden\]|\$)([^\s\"',]+)",
    r"(?i)(\b(?:mysql|mysqldump|mysqladmin|mariadb)\b[^\n|;]{0,200}?\s-p)(?!\[hidden\]|\$|\s)([^\s\"']+)",
    r"(?i)(\b(?:docker|podman|helm|skopeo|oc|az|redis-cli|ldapsearch|smbclient|7z|zip|unzip)\b[^\n|;]{0,200}?\s(?:-p|-a|-w|-P)\s+)(?!\[hidden\]|\$|-|/|\d+:)([^\s\"']{4,})",
    r"(?i)(\b-pass(?:in|out)?\s+pass:|\bpass:)(?!\[hidden\])([^\s\"']{3,})",
    r"(?i)(\blogin\s+\S+\s+password\s+)(?!\[hidden\])(\S+)",
    r"(?i)(\bIDENTIFIED\s+(?:WITH\s+\w+\s+)?BY\s+)(?!\[hidden\])(" + _QUOTED + ")",
    rf"(?i)(--[\w-]{{0,40}}{_NAMES}{_SUFFIX}(?:\s+|=))(?!-|\$|/|\[hidden\])({_QUOTED}|{_BARE})",
    rf"(?i)(?<!\ba )(?<!\bno )({_NAMES}{_SUFFIX}(?:\[\w*\])?[\\\"']*\s*(?:=>|:=|[=:])\s*(?:!\w+\s+)?)(?![\\\"']*(?:\[hidden\]|\$|/|--))(?:{_PROSE})(?:{_SENTENCE})({_QUOTED}|{_BARE})",
)
_BY_NAME = tuple(map(re.compile, _PATTERNS))
"""They recognise a secret by the text before it, which is the first group."""


def _hidden(found: re.Match[str]) -> str:
    """Return the kept part and the mask; quotes around a value stay, so that JSON and YAML remain valid."""
    quote = re.match(r"\\*[\"']", found[2])
    return f"{found[1]}{quote[0]}{MASK}{quote[0]}" if quote and found[2].endswith(quote[0]) else f"{found[1]}{MASK}"


def masked(text: str) -> str:
    """Replace everything that looks like a secret by `[hidden]`."""
    if "PRIVATE KEY" in text or "Private-Lines" in text:
        for pattern in _BLOCKS:
            text = pattern.sub(_hidden, text)
    return "".join(map(_line, text.splitlines(keepends=True))) if "\n" in text else _line(text)


def _line(line: str) -> str:
    small = line.lower()
    if any(trace in small for trace in _TRACES):
        for pattern in _BY_NAME:
            line = pattern.sub(_hidden, line)
    if "$" in line or "}" in line or "*" in line or ":::" in line:
        line = _HASH.sub(MASK, line)
    return _WORD.sub(lambda found: _TOKEN.sub(MASK, found[0]), line)
