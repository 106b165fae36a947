"""Compares the files of this environment with the wheels that they come from, and keeps what is there as sys.prefix/manifest.txt.

Run by the environment's own Python before the wheels are removed: manifest.py LOCK FOLDER_OF_WHEELS. The measure is what the wheels contain,
by their zip directories: their RECORDs may be wrong (pynvvideocodec 2.0.4 has the sizes from before its libraries were changed), and files may
belong to several wheels with different content (build_backend.py of flashinfer-python and torch-c-dlpack-ext). Then any owner's will do, and
the one that is there is written down. A line is the CRC-32, the size in bytes, and the path below sys.prefix; byte code has a list of its
own, made when all is compiled.
"""

import hashlib
import os
import re
import sys
import sysconfig
import zipfile
import zlib

LINE = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*==.*--hash=sha256:([0-9a-f]{64})", re.MULTILINE)
DATA = re.compile(r"[^/]+\.data/(\w+)/(.+)")
INSTALLERS_OWN = re.compile(r"[^/]+\.dist-info/(RECORD(\.jws|\.p7s)?|INSTALLER|REQUESTED|direct_url\.json)")
CHUNK = 1 << 20


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def wheels_of(lock, folder):
    """The wheel of each line of the lock; where several are there of a distribution, by its hash."""
    there = {}
    for name in os.listdir(folder):
        if name.endswith(".whl"):
            there.setdefault(canonical(name.split("-")[0]), []).append(os.path.join(folder, name))
    for name, sha256 in LINE.findall(lock):
        found = there.get(canonical(name), [])
        if len(found) > 1:
            found = [path for path in found if sha256_of(path) == sha256]
        if not found:
            sys.exit(f"firstlight-error: the wheel of {name} is not in {folder}")
        yield found[0]


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def crc_of(path):
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def members(wheel, folders):
    """Where each file of a wheel lies once installed, with its CRC-32 and size; what an installer writes itself is left out."""
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        [about] = [entry for entry in entries if re.fullmatch(r"[^/]+\.dist-info/WHEEL", entry.filename)]
        pure = re.search(rb"^Root-Is-Purelib: *true", archive.read(about), re.MULTILINE | re.IGNORECASE)
        root = folders["purelib" if pure else "platlib"]
        for entry in entries:
            data = DATA.fullmatch(entry.filename)
            scheme, path = data.groups() if data else (None, entry.filename)
            if path.endswith(".pyc") or INSTALLERS_OWN.fullmatch(path):
                continue
            # Where headers go is the installer's own choice, and it writes the interpreter into scripts that ask for it.
            if scheme == "headers" or (scheme == "scripts" and archive.open(entry).read(8) == b"#!python"):
                continue
            yield os.path.join(folders[scheme] if scheme else root, path), entry.CRC, entry.file_size


def present(home):
    """Every file and link below a folder, but for byte code."""
    for folder, folders, names in os.walk(home):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        yield from (os.path.join(folder, name) for name in [*names, *links] if not name.endswith(".pyc"))


def entry_of(path):
    """CRC-32 and size of a file's content; of a link those of the path that it holds."""
    if os.path.islink(path):
        target = os.fsencode(os.readlink(path))
        return zlib.crc32(target), len(target)
    return crc_of(path), os.stat(path).st_size


def installed(owners):
    """What is there of the wheels' files by path: CRC-32 and size; and what is wrong, one text a file."""
    found, faults = {}, []
    for path, contents in owners.items():
        try:
            size = os.stat(path).st_size
        except OSError as error:
            faults.append(f"{path}: {error.strerror}")
            continue
        crcs = {crc for crc, wanted in contents if wanted == size}
        crc = next(iter(crcs), None) if len(contents) == 1 else crc_of(path)
        if crc in crcs:
            found[path] = crc, size
        else:
            sizes = " or ".join(str(wanted) for wanted in sorted({wanted for _crc, wanted in contents}))
            faults.append(f"{path} has {size} bytes, and no wheel's content ({sizes} bytes)")
    return found, faults


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        lock = file.read()
    folders = {name: os.path.realpath(path) for name, path in sysconfig.get_paths().items()}
    owners = {}
    for wheel in wheels_of(lock, sys.argv[2]):
        for path, crc, size in members(wheel, folders):
            owners.setdefault(path, set()).add((crc, size))
    found, faults = installed(owners)
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        sys.exit("firstlight-error: the environment differs from its wheels: " + "; ".join(faults[:5]) + more)
    home = os.path.realpath(sys.prefix)
    # The folder was empty before: what installers wrote themselves belongs to it as well.
    found.update((path, entry_of(path)) for path in present(home) if path not in found)
    beside = os.path.join(home, "manifest.txt.new")
    with open(beside, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(f"{crc:08x} {size} {path[len(home) + 1 :]}\n" for path, (crc, size) in sorted(found.items()))
    os.replace(beside, os.path.join(home, "manifest.txt"))
    print(f"{len(found)} files")


main()
