"""Whether anything failed. Decided before any cause is weighed: a log in which nothing failed has no finding.

Each line has a tone: it fails (a traceback, an error level, an exit status), complains, warns, or reports. A text has failed
when a line of it fails, or when one complains and the text does not end well. Of a few quoted lines without a report around
them somebody thought that they tell of a failure, so they are taken for one. Pure: lines in, verdict out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from verify.doctor.reading import LINE_BYTES

QUOTE_LINES = 6
"""As many lines without a report among them are a quotation: whoever gives no more chose them."""
LOG_LINES = 2
"""From as many reports on a text is a program's log and no person's words."""
NOISE_LINES, MOST_NOISE = 3, 0.1
"""A file that begins with more than this share of characters that no text holds is none."""


class Tone(IntEnum):
    """What a line says of its program's state."""

    PLAIN = 0
    """Neither a level nor a complaint: a table, a command, a name."""
    REPORTS = 1
    """A program says what it does, or what it was configured to do."""
    WARNS = 2
    """A program complains and goes on."""
    COMPLAINS = 3
    FAILS = 4


@dataclass(frozen=True)
class Verdict:
    """Of one text."""

    failed: bool
    is_log: bool
    """Whether a program wrote it down as it went: its words are no person's."""
    is_quoted: bool = False
    """Whether somebody chose its few lines, so that each of them tells."""
    is_unfinished: bool = False
    """Whether it ends in the middle of a start, so that what is only reported may tell as well."""


_REPORTS = re.compile(
    r"^[^\"'`]{0,120}?(?:(?<![\w.$=-])(?:TRACE|DEBUG|INFO|NOTICE|SUCC|SUCCESS|LOG|HINT|DETAIL|STATEMENT)(?![\w=-])"
    r"|\[(?:trace|debug|info|notice|note|INFO|TRACE|Note|System)\b)"
    r"|^.{0,160}?\b(?:level|lvl|severity)=\"?(?i:trace|debug|info|notice)\b"
    r"|^\{.{0,400}?\"(?:level|severity|lvl|levelname|s)\": ?\"(?i:trace|debug|info|notice|log|I)\""
    r"|^(?:\[rank\d{1,4}\]:)?\[?[ID]\d{4} \d\d:\d\d|^(?:ok|changed|skipping|included): \[|^(?:TASK|PLAY|RUNNING HANDLER|FAILED - RETRYING)\b"
    r"|^\d{1,7}:[MCSX] \d\d \w{3} \d{4} \S{1,14} [*.-] |^.{0,40}Command line: |^\++ \S|^#\d{1,3} (?:\[|DONE|CACHED)|^-- (?!Could NOT)|^make(?:\[\d{1,2}\])?: (?:Enter|Leav)ing"
    r"|^\s*(?:CC|CXX|LD|AR|AS|BTF|MODPOST|SYMLINK|HOSTCC|CONFTEST:|NVCC) (?! ?error)|^\[\s*\d{1,3}%\] "
    r"|^\s*(?:export |set )?[A-Z][A-Z\d]*_[A-Z\d_]+=\S*$|^Vulnerability \w"
)
"""Levels below a warning, as loggers, NCCL, glog, PostgreSQL, MySQL, Redis and Ansible write them; steps of builds; variables that were set."""
_WARNS = re.compile(
    r"^.{0,120}?(?:(?<![\w.$-])(?:WARN|WARNING|Warning|warning)(?![\w=-])|\w{2,40}Warning: |\[(?:warn|warning)\]"
    r"|\b(?:level|lvl|severity)=\"?warn|\"(?:level|severity|levelname)\": ?\"(?i:warn))"
    r"|^(?:\[rank\d{1,4}\]:)?\[?W\d{4} \d\d:\d\d|^W: "
)
_FAILS = re.compile(
    r"Traceback \(most recent call last\)|(?<![\w=/-])[A-Za-z_][\w.]{0,80}(?:Error|Exception)(?![\w=/-])(?!\s*\|)"
    r"|(?<![\w.$-])(?:ERROR|FATAL|CRITICAL|SEVERE|PANIC|EMERG)(?![\w=-])|\[(?:error|crit|alert|emerg|fatal)\]"
    r"|\b(?:level|lvl|severity)=\"?(?:error|fatal|panic)|\"(?:level|severity|levelname)\": ?\"(?i:error|fatal|critical)"
    r"|^(?:\[rank\d{1,4}\]:)?\[?[EF]\d{4} \d\d:\d\d|^E: |NCCL WARN|\bXid\b"
    r"|(?i:(?:^|[\s\])])(?:fatal )?error(?:\[\w{1,12}\])?: |^fatal: |^error\b|\bnvcc (?:error|fatal))"
    r"|(?i:\bexit(?:ed|s|ing)?(?: with)?(?: exit)?(?: code| status)?[:=]? ?(?:-[1-9]|[1-9])\d{0,2}\b|non-zero exit)"
    r"|\bstatus=[1-9]\d{0,2}/|Failed with result|(?:^|\s)FAILED(?![=\w])|CMake Error"
    r"|\bKilled\b|(?i:\bsegfault\b|segmentation fault|core dumped|\bout of memory\b|\boom[- ]kill|\bkernel panic)"
    r"|\bAborted\b|\bSIG(?:KILL|SEGV|ABRT|ILL|BUS)\b|undefined symbol|^\S{0,40}: command not found"
)
_COMPLAINS = re.compile(
    r"(?i)n't\b|\?(?:\s|$)|不|错误|失败|报错|无法"
    r"|\b(?:error|fail|fatal|cannot|can ?not|unable|missing|lack|invalid|unsupported|incompatib|mismatch|conflict"
    r"|wrong|corrupt|br[eo]ak|hang|hung|stuck|freez|deadlock|crash|kill|slow|denied|refus|reject|problem"
    r"|trouble|timed? ?-?outs?\b|unavailable|exceed|expired?|abort|undefined|unrecogni|unexpected|illegal|insufficient"
    r"|disappear|zombie|disagree|violat|unresolv|unsatisf|unreachable|fallen|too \w|no such|not \w|no longer|without|vanish)"
)
_HARMLESS = re.compile(
    r"(?i)\btaint|\b(?:no|0|zero|without(?: any)?) (?:errors?|failures?|warnings?|problems?|issues?)\b"
    r"|\b(?:failed|fail|errors?|failures?|unreachable|ignored|rescued|warnings?|skipped)\s?[=:]\s?0\b"
    r"|:\s{1,40}(?:No|N/A|0|None|Not Active|Disabled|not set)\s*$|\bCould not collect\b"
    r"|^No (?:services|containers|VM guests|user sessions) |\bnot upgraded\.|\bQuota mode: none|^#"
    r"|^(?:Preparing to unpack|Unpacking|Setting up|Selecting previously|Get:\d|Hit:\d|Processing triggers|Collecting|Downloading"
    r"|Requirement already|Using cached|Installing collected|Successfully| [+-] \S+==)"
)
"""Words of complaint in lines that complain of nothing: counters at zero, values of tables, names of packages."""
_ENDS_WELL = re.compile(
    r"(?i)application startup complete|uvicorn running on|init complete\b|connected all (?:rings|trees)|^complete!|^\s*done\.?$"
    r"|\bsuccessfully\b|\bbuild success|\bfinished successfully|\bexit(?:ed)?(?: with)?(?: code| status)?[:= ]{1,2}0\b"
    r"|\b(?:unreachable|failed)=0\b|\bdeactivated successfully|\bready (?:to accept|for) connections|\bstarted .{1,80}\.$"
    r"|\breached target|\binstallation (?:of .{1,80} )?(?:is )?(?:now )?complete|\binstalled \d{1,6} packages?\b"
    r"|\bstatus: downloaded newer image|\bserver is (?:ready|listening)|\bis up and running"
    r"|^Processing triggers for |^No (?:services|containers|VM guests) |^\[100%\] Built target|build files have been written|\bstate=completed\b|ExitCode=0:0"
    r"|^make(?:\[1\])?: Leaving directory|^Download complete"
)
_STARTED = re.compile(r"(?i)application startup complete|uvicorn running on")
_BEGUN = (
    (re.compile(r"\bInit START\b"), re.compile(r"\bInit COMPLETE\b")),
    (
        re.compile(r"Initializing an? (?:V1 )?LLM engine|vLLM API server version"),
        re.compile(r"(?i)startup complete|uvicorn running|shutting down"),
    ),
    (re.compile(r"Waiting for creating a placement group"), re.compile(r"using nccl==|(?i:startup complete)")),
)
"""What a start begins with, and what a log of it has when it ended: where that is missing, the start did not get there."""
_SUBJECT = re.compile(
    r"(?i)^[a-z]\w{2,60}(?:Error|Exception): |nvidia|c10d|\bGCS\b|xformers|\brequirement|ibv_|nouveau|\bfabric|nvlink|nvswitch|\bNV(?:ML|RM|CC)|nccl|rccl|cuda|\bcu(?:dnn|blas|Init)|\bGPU|\bHIP\b|rocm|amdgpu|\bgfx\d|triton|torch"
    r"|vllm|\bLLM|transformers|hugging ?face|safetensors|tokeniz|tensor|head_size|flash|attention|\bfp8|bf(?:loat)?-?16|\bKV\b|\bray\b|gloo"
    r"|mlx[45]|infiniband|\bRDMA|\bIB\b|python|\bpip3?\b|\buv\b|conda\b|wheel|\bnumpy|site-packages|\.py\b|ninja|cmake|\bgcc|g\+\+"
    r"|\bld:|\bnvcc|ptxas|cicc|docker|podman|containe?r|kubectl|\bpods?\b|kernel|dkms|modprobe|\bmodule|secure ?boot|mokutil|driver"
    r"|\bMIG\b|\bWSL|\bBAR\b|\bPCI|\bmodels?\b|\bsm_\d|compute capability|engine ?core|\bAVX|GLIBC|\blib\w+\.so|illegal instruction"
    r"|显卡|模型"
)
"""What the causes are about. A text without a word of it is of other programs."""


_PROGRAM = re.compile(
    r"^\W{0,2}\d{4}[-/]\d\d[-/]\d\d|^\w{3} [ \d]\d \d\d:\d\d|^(?!Error )[\w./-]{1,40}(?:\[\d{1,8}\])?: |^\s+at [\w.$/]{3,120}\("
    r"|^Exception in thread|^\[[^\]]{2,40}\] |^[A-Z]{2,8}[- ]\d{3,6}\b|\*{3} |^Segmentation fault"
)
"""How programs begin their lines, and people do not."""


def tone(line: str) -> Tone:
    """What one line says of its program's state."""
    text = line[:LINE_BYTES]
    if not text.strip():
        return Tone.PLAIN
    if _REPORTS.search(text):
        return Tone.REPORTS
    warns = _WARNS.search(text) is not None and "NCCL WARN" not in text
    if not warns and _FAILS.search(text) and not _HARMLESS.search(text):
        return Tone.FAILS
    if warns or (_COMPLAINS.search(text) and not _HARMLESS.search(text)):
        return Tone.WARNS if warns else Tone.COMPLAINS
    return Tone.PLAIN


def verdict(lines: Sequence[str], signs: Iterable[str] = ()) -> Verdict:
    """Whether a text tells of a failure: its lines, or of a long one the first and the last and those that are signs.

    `signs`: those of its lines that make a cause sure by themselves. One is a failure unless it is a report, or a warning
    without an error in it of a server that started all the same.
    """
    told = [line for line in lines if line.strip()]
    if not told or is_noise(told[:NOISE_LINES]):
        return Verdict(failed=False, is_log=True)
    tones = [tone(line) for line in told]
    is_log = tones.count(Tone.REPORTS) >= LOG_LINES
    quoted = len(told) <= QUOTE_LINES
    least = Tone.COMPLAINS if any(_STARTED.search(line[:LINE_BYTES]) for line in told) else Tone.WARNS
    if Tone.FAILS in tones or any(_is_failure(sign, least) for sign in signs):
        return Verdict(failed=True, is_log=is_log, is_quoted=quoted)
    ends = [n for n, line in enumerate(told) if tones[n] <= Tone.REPORTS and _ENDS_WELL.search(line[:LINE_BYTES])]
    if any(each >= (Tone.COMPLAINS if ends else Tone.WARNS) for each in tones[ends[-1] + 1 if ends else 0 :]):
        return Verdict(failed=True, is_log=is_log, is_quoted=quoted)
    if any(_is_open(told, *begun) for begun in _BEGUN):
        return Verdict(failed=True, is_log=is_log, is_quoted=quoted, is_unfinished=True)
    chosen = quoted and not ends and (not is_log or any(_COMPLAINS.search(line[:LINE_BYTES]) for line in told))
    return Verdict(failed=chosen, is_log=is_log, is_quoted=quoted)


def _is_failure(sign: str, least: Tone) -> bool:
    said = tone(sign)
    return said is Tone.PLAIN or said >= least or (said is Tone.WARNS and _FAILS.search(sign[:LINE_BYTES]) is not None)


def _is_open(lines: Sequence[str], begin: re.Pattern[str], end: re.Pattern[str]) -> bool:
    begun = next((place for place, line in enumerate(lines) if begin.search(line[:LINE_BYTES])), None)
    return begun is not None and not any(end.search(line[:LINE_BYTES]) for line in lines[begun:])


def is_noise(lines: Iterable[str]) -> bool:
    """Whether these are bytes of something that is no text."""
    text = "".join(lines)
    noise = sum(
        character == "\ufffd" or (character < " " and character not in "\t\r\x1b") or "\x7f" <= character < "\xa0"
        for character in text
    )
    return noise > MOST_NOISE * len(text)


def is_foreign(lines: Sequence[str]) -> bool:
    """Whether a program wrote a text in which nothing is about anything that causes are about."""
    return any(_PROGRAM.search(line[:LINE_BYTES]) for line in lines) and not any(
        _SUBJECT.search(line[:LINE_BYTES]) for line in lines
    )
