import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.core.errors import StageError
from provision.phases.stage.solve import LockedWheel, Target, choose_wheels, lock_text

INTEL = Target.of("x86_64-manylinux_2_34", "3.12.4")


def pylock(*packages: str) -> str:
    return "\n".join(['lock-version = "1.0"', 'created-by = "uv"', 'requires-python = ">=3.12.4"', *packages])


def package(name: str, version: str, *wheels: str, marker: str | None = None, hashed: bool = True) -> str:
    rows = [
        f'{{ url = "https://files.example/{number}/{wheel}", hashes = {{ {"sha256" if hashed else "md5"} = "{str(number) * 64}" }} }}'
        for number, wheel in enumerate(wheels, 1)
    ]
    lines = ["[[packages]]", f'name = "{name}"', f'version = "{version}"', f"wheels = [{', '.join(rows)}]"]
    return "\n".join([*lines, *([f"marker = {json.dumps(marker)}"] if marker else [])])


def test_the_best_compatible_wheel_is_chosen() -> None:
    native = [f"cp312-cp312-manylinux_{tag}" for tag in ("2_28_aarch64", "2_28_x86_64", "2_35_x86_64")]
    tags = ["py3-none-any", *native, "cp313-cp313-manylinux_2_28_x86_64"]
    (file,) = choose_wheels(pylock(package("torch", "2.7.0", *(f"torch-2.7.0-{tag}.whl" for tag in tags))), INTEL)
    assert file == LockedWheel("torch", "2.7.0", "torch-2.7.0-cp312-cp312-manylinux_2_28_x86_64.whl", "3" * 64, "https://files.example/3/torch-2.7.0-cp312-cp312-manylinux_2_28_x86_64.whl")  # fmt: skip


def test_markers_are_the_hosts_and_own_distributions_are_excluded() -> None:
    lock = pylock(
        package("a", "1", "a-1-py3-none-any.whl", marker="platform_machine == 'aarch64'"),
        package("b", "1", "b-1-py3-none-any.whl", marker="python_full_version < '3.12.5'"),
        package("firstlight-attention", "1", "firstlight_attention-1-py3-none-any.whl"),
    )
    assert [file.distribution for file in choose_wheels(lock, INTEL, own=["firstlight_attention"])] == ["b"]


def test_a_distribution_without_a_compatible_wheel_is_refused() -> None:
    lock = pylock(package("torch", "2.7.0", "torch-2.7.0-cp312-cp312-win_amd64.whl"))
    with pytest.raises(StageError, match="torch"):
        choose_wheels(lock, INTEL)


def test_an_index_without_sha256_is_refused_with_the_file() -> None:
    with pytest.raises(StageError, match=r"no sha256 for `a-1-py3-none-any\.whl`"):
        choose_wheels(pylock(package("a", "1", "a-1-py3-none-any.whl", hashed=False)), INTEL)


def test_an_invalid_lock_causes_no_traceback() -> None:
    with pytest.raises(StageError, match="does not fit"):
        choose_wheels("lock-version = ", INTEL)


names = st.from_regex(r"[A-Za-z][A-Za-z0-9]*([-_.][A-Za-z0-9]+)*", fullmatch=True)
hashes = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
locked = st.builds(LockedWheel, names, st.just("1.0"), st.just("x.whl"), hashes, st.just("https://h/x.whl"))


@settings(max_examples=30, deadline=None)
@given(st.lists(locked))
def test_the_lock_text_is_canonical_and_independent_of_the_order(files: list[LockedWheel]) -> None:
    text = lock_text(files)
    assert text == lock_text(files[::-1])
    assert all(re.fullmatch(r"[a-z0-9-]+==1\.0 --hash=sha256:[0-9a-f]{64}", line) for line in text.splitlines())
    assert len(text.splitlines()) == len(files)
