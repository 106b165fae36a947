"""The script of role gpu_slices, with a stand-in for nvidia-smi that keeps the mode and the slices of two GPUs in files. No GPU has run it."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.install.scripts import run_sh, script_text

STAND_IN = r"""#!/bin/sh
cd "$(dirname "$0")/gpus" || exit 9
echo "$*" >>../called
case "$*" in
'-q -x')
    echo '<nvidia_smi_log><driver_version>580.178.04</driver_version><cuda_version>13.0</cuda_version>'
    for gpu in 0 1; do
        echo "<gpu><product_name>NVIDIA A100-SXM4-40GB</product_name><mig_mode><current_mig>$(cat "mode$gpu")</current_mig></mig_mode>"
        echo '<mig_devices>'
        place=0
        while read -r profile; do
            [ -n "$profile" ] || continue
            total=$((${profile#*.} * 1000))
            echo "<mig_device><index>$place</index><fb_memory_usage><total>$total MiB</total></fb_memory_usage></mig_device>"
            place=$((place + 1))
        done <<LIST
$(sed 's/gb$//' "slices$gpu")
LIST
        echo "</mig_devices><uuid>GPU-6f1e0$gpu</uuid><fb_memory_usage><total>40960 MiB</total></fb_memory_usage></gpu>"
    done
    echo '</nvidia_smi_log>'
    ;;
'--query-gpu=uuid,compute_cap --format=csv,noheader') for gpu in 0 1; do echo "GPU-6f1e0$gpu, 8.0"; done ;;
-L)
    for gpu in 0 1; do
        echo "GPU $gpu: NVIDIA A100-SXM4-40GB (UUID: GPU-6f1e0$gpu)"
        place=0
        while read -r profile; do
            echo "  MIG $profile     Device  $place: (UUID: MIG-$gpu$place)"
            place=$((place + 1))
        done <"slices$gpu"
    done
    ;;
'-i '*' --query-gpu=mig.mode.current --format=csv,noheader') cat "mode$2" ;;
'-i '*' -q -x') cat "users$2" ;;
'-i '*' -mig '*)
    [ ! -e "held$2" ] || { echo "Warning: MIG mode is in pending enable state for GPU $2: In use by another client"; exit 0; }
    [ "$4" = 1 ] && echo Enabled >"mode$2" || echo Disabled >"mode$2"
    ;;
'mig -dci -i '*) grep -q . "slices$4" || { echo 'No GPU instances found: Not Found'; exit 6; } ;;
'mig -dgi -i '*) : >"slices$4" ;;
'mig -i '*' -cgi '*' -C')
    grep -qx Enabled "mode$3" || exit 3
    case $5 in *9g*) echo "Unable to create a GPU instance: Invalid Argument"; exit 3 ;; esac
    echo "$5" | tr ',' '\n' >>"slices$3"
    ;;
*) exit 8 ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stand-in and two GPUs without slices, and the folder of the role."""
    (tmp_path / "gpus").mkdir()
    (tmp_path / "made-here").mkdir()
    for name, text in (("nvidia-smi", STAND_IN), ("systemctl", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for gpu in (0, 1):
        (tmp_path / f"gpus/mode{gpu}").write_text("Disabled\n")
        (tmp_path / f"gpus/slices{gpu}").write_text("")
        (tmp_path / f"gpus/users{gpu}").write_text("<processes>\n</processes>\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def make(host: Path, slices: str, check: str = "0") -> subprocess.CompletedProcess[str]:
    return run_sh("gpu_slices/files/make.sh", slices=slices, folder=str(host / "made-here"), check=check)


def state(host: Path, gpu: int) -> tuple[str, list[str]]:
    return (host / f"gpus/mode{gpu}").read_text().strip(), (host / f"gpus/slices{gpu}").read_text().split()


@pytest.mark.slow
def test_slices_are_made_once_and_removed_with_a_stand_in_for_nvidia_smi(host: Path) -> None:
    done = make(host, "0=3g.20gb,2g.10gb")
    assert done.stdout == "firstlight-changed: GPU 0: 3g.20gb,2g.10gb\n", done.stderr
    assert (state(host, 0), state(host, 1)) == (("Enabled", ["3g.20gb", "2g.10gb"]), ("Disabled", []))
    (host / "called").unlink()
    assert make(host, "0=2g.10gb,3g.20gb").stdout == ""
    assert not [line for line in (host / "called").read_text().splitlines() if "mig " in line]
    assert make(host, "0=1g.5gb").returncode == 0
    assert state(host, 0) == ("Enabled", ["1g.5gb"])
    assert make(host, "0=").stdout == "firstlight-changed: GPU 0: MIG off\n"
    assert state(host, 0) == ("Disabled", [])
    assert (host / "made-here/made").read_text().split() == ["0", "0", "0"]


def test_at_boot_the_layout_of_the_host_is_made_with_a_stand_in_for_nvidia_smi(host: Path) -> None:
    (host / "made-here/layout").write_text("0= 1=3g.20gb,3g.20gb\n")
    done = run_sh("gpu_slices/files/make.sh", folder=str(host / "made-here"))
    assert done.returncode == 0, done.stderr
    assert state(host, 1) == ("Enabled", ["3g.20gb", "3g.20gb"])


def test_check_mode_changes_nothing_with_a_stand_in_for_nvidia_smi(host: Path) -> None:
    assert make(host, "1=3g.20gb", check="1").stdout == "firstlight-changed: GPU 1: 3g.20gb\n"
    assert state(host, 1) == ("Disabled", [])


def test_a_gpu_that_a_process_uses_is_refused_by_name_with_a_stand_in_for_nvidia_smi(host: Path) -> None:
    lines = ["<pid>4711</pid>", "<type>C</type>", "<process_name>/srv/venv/bin/python3</process_name>"]
    (host / "gpus/users0").write_text("\n".join(["<process_info>", *lines, "</process_info>"]))
    done = make(host, "0=3g.20gb 1=3g.20gb")
    assert done.returncode == 1
    assert "GPU 0 is in use, so its slices are not changed: pid 4711 (/srv/venv/bin/python3)" in done.stdout
    assert state(host, 0) == ("Disabled", [])


@pytest.mark.parametrize(
    ("slices", "held", "text"),
    [("0=9g.80gb", False, "Invalid Argument"), ("0=3g.20gb", True, "MIG mode is in pending enable state")],
)
def test_what_nvidia_smi_refuses_is_told_with_a_stand_in_for_nvidia_smi(
    host: Path, slices: str, text: str, *, held: bool
) -> None:
    if held:
        (host / "gpus/held0").touch()
    done = make(host, slices)
    assert done.returncode == 1
    assert f"GPU 0 is not split as wanted ({slices[2:]})" in done.stdout
    assert text in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("used", [False, True])
def test_uninstall_removes_the_slices_that_were_made_with_a_stand_in_for_nvidia_smi(host: Path, *, used: bool) -> None:
    prefix, folder = host / "prefix", host / "made-here"
    prefix.mkdir()
    (prefix / ".firstlight").write_text("firstlight 1\n")
    (host / "gpus/mode1").write_text("Enabled\n")
    (host / "gpus/slices1").write_text("1g.5gb\n")
    assert make(host, "0=3g.20gb 1=1g.5gb").returncode == 0
    if used:
        (host / "gpus/users0").write_text("<pid>7</pid>\n<process_name>python3</process_name>\n")
    (folder / "make.sh").write_text(script_text("gpu_slices/files/make.sh"))
    given = {"prefix": str(prefix), "incoming": "", "remove_packages": "0", "check": "0", "folder": str(folder)}
    done = run_sh("uninstall/files/remove.sh", **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("firstlight-changed: slices of GPUs" in done.stdout) is not used
    assert ("firstlight-left: slices of GPUs: GPU 0 is in use" in done.stdout) is used
    assert state(host, 0) == (("Enabled", ["3g.20gb"]) if used else ("Disabled", []))
    assert state(host, 1) == ("Enabled", ["1g.5gb"])
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_a_users_uninstallation_leaves_the_slices_that_root_made() -> None:
    with tempfile.TemporaryDirectory() as name:  # a folder of a test's own is closed to other accounts
        made, prefix = Path(name, "made-here"), Path(name, "prefix")
        for folder in (made, prefix):
            folder.mkdir()
        (prefix / ".firstlight").write_text("firstlight 1\n")
        Path(name).chmod(0o777)
        shutil.chown(prefix, 65534)
        given = {"prefix": str(prefix), "incoming": "", "remove_packages": "0", "check": "0", "folder": str(made)}
        login = ["setpriv", "--reuid", "65534", "--clear-groups", "sh", "-c", script_text("uninstall/files/remove.sh")]
        variables = {f"FIRSTLIGHT_{key.upper()}": value for key, value in given.items()}
        done = subprocess.run(
            login, env={**os.environ, "HOME": name, **variables}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (made.exists(), prefix.exists()) == (True, False)
