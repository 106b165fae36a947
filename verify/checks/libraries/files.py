"""libraries.files: content of the installed files.

Files are compared with the manifest and the list of compiled byte code, which were written when the environment was built. An
environment without a manifest is compared with the wheels' RECORDs, which are less complete: some have sizes from before
their libraries were changed, and a file of several wheels has a line in each.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from verify.binaries.distributions import installed
from verify.binaries.manifest import (
    BYTE_CODE_LIST,
    MANIFEST,
    Contents,
    FileStamps,
    file_stamp,
    listed,
    listing,
    load_stamps,
    mapped_files,
    record_contents,
    save_stamps,
    stands_for_source,
    wrong_contents,
    wrong_sizes,
)
from verify.records import CheckContext, CheckResult, Figure, first_few

SHOWN = 5
UNSEEN_BYTES = 1 << 29
"""Share of never-read files that a standard run reads. For 15,000 small files about 1.5 s of CPU time (0.35 GB/s, 43 us per file)."""
REMEDY = "rebuild the environment from its wheels: ./firstlight provision"


def run(context: CheckContext) -> CheckResult:
    home = Path(sys.prefix).resolve()
    contents = listed(home / MANIFEST, home)
    if contents is None:
        return _by_record(context)
    compiled, listing_is = listed(home / BYTE_CODE_LIST, home) or {}, listing(home)
    contents = _spoiled({**contents, **compiled}, context)
    known = load_stamps(context.prefix, home)
    marks = {path: file_stamp(path) for path in contents}
    sizes = wrong_sizes(contents)
    read = set(contents) if context.includes("full") else chosen(contents, marks, known, mapped_files(home))
    read -= sizes.keys()
    wrong = sizes | wrong_contents({path: contents[path] for path in read})
    # Byte code may be deleted or compiled again.
    right = {path for path in wrong.keys() & compiled.keys() if marks[path] is None or stands_for_source(path)}
    wrong = {path: text for path, text in wrong.items() if path not in right}
    now = {**known, **{path: None if path in wrong else marks[path] for path in read}}
    if context.prefix and now != known and not context.faults:
        with suppress(OSError):  # this user may not write there
            save_stamps(context.prefix, home, now)
    size = sum(any_of[0].size for any_of in contents.values())
    figures = (
        Figure("files", len(contents), "count"),
        Figure("bytes", size, "B"),
        Figure("read", sum(contents[path][0].size for path in read), "B"),
        Figure("never read", len(contents.keys() - known.keys() - read), "count"),
    )
    evidence = {"with": MANIFEST, "byte code": listing_is, "read": len(read), "wrong": list(wrong.values())[:100]}
    if wrong:
        return CheckResult("fail", first_few([*wrong.values()], SHOWN), figures, evidence, REMEDY)
    if listing_is == "absent":
        text = f"cannot compare byte code: {home / BYTE_CODE_LIST} was never completed"
        return CheckResult("error", text, figures, evidence, "compile it again: ./firstlight provision")
    later = "; byte code is being compiled, and not compared yet" if listing_is == "under way" else ""
    text = f"{len(contents)} files are as installed, by size and time; {len(read)} of them by content{later}"
    return CheckResult("ok", text, figures, evidence)


def _spoiled(contents: Contents, context: CheckContext) -> Contents:
    if "stale-library" not in context.faults or not contents:
        return contents
    path, (first, *_) = next(iter(contents.items()))
    return {**contents, path: (first._replace(size=first.size + 1),)}


def chosen(contents: Contents, marks: FileStamps, known: FileStamps, mapped: frozenset[str]) -> set[str]:
    """Return the files that a standard run reads: mapped ones, those whose stamp changed, and some that were never read."""
    first = {path for path in contents if path in mapped or (path in known and known[path] != marks[path])}
    left = UNSEEN_BYTES
    for path, any_of in contents.items():
        if left > 0 and path not in known and path not in first:
            first.add(path)
            left -= any_of[0].size
    return first


def _by_record(context: CheckContext) -> CheckResult:
    by_content = context.includes("full")
    found = [distribution for same in installed().values() for distribution in same]
    contents = _spoiled(record_contents(found), context)
    unrecorded = [item.metadata["Name"] for item in found if not item.read_text("RECORD")]
    wrong = wrong_contents(contents) if by_content else wrong_sizes(contents)
    how = "content" if by_content else "size"
    figures = (Figure("files", len(contents), "count"),)
    evidence = {"compared by": how, "with": "RECORD", "wrong": list(wrong.values())[:100], "without RECORD": unrecorded}
    if wrong:
        # Only a missing file is certainly damaged.
        damaged = not all(map(os.path.exists, wrong))
        doubt = "" if damaged else " (by RECORD, which is wrong in some wheels; this environment has no manifest)"
        text = f"{first_few([*wrong.values()], SHOWN)}{doubt}"
        return CheckResult("fail" if damaged else "warn", text, figures, evidence, REMEDY)
    if unrecorded or not contents:
        text = f"there is no RECORD to compare with: {', '.join(unrecorded) or 'nothing is installed'}"
        return CheckResult("warn", text, figures, evidence)
    return CheckResult("ok", f"{len(contents)} files are as installed, by {how}", figures, evidence)
