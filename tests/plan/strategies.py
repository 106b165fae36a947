"""Random described hosts and policies."""

from typing import Any

from hypothesis import strategies as st

from provision.core.errors import UsageError
from provision.core.models.settings import Settings
from provision.phases.plan.policy import policy_of

CARDS = (
    *("H100", "H100PCIe", "H200", "B200", "A100", "A10", "L4", "T4", "V100", "P100"),
    *("RTX4090", "RTX5090", "RTX2080Ti"),
)
DRIVERS = (
    *("470.57.02", "525.60.13", "535.183.01", "550.54.15", "560.35.03"),
    *("570.133.20", "575.57.08", "580.65.06", "580.173.02", "595.71.05", "610.57.04"),
)
RELEASES = ("latest", "none", "==0.9.1", "==0.11.2", "==0.19.1", "==0.20.2", "==0.31.0", ">=0.26.0", ">=0.10.0")


def words(**choices: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Draw a --what-if line in which each key may be missing."""

    @st.composite
    def line(draw: Any) -> str:
        found = []
        for key, values in choices.items():
            if draw(st.booleans()) or key == "gpu":
                found.append(f"{key}={draw(values)}")
        if "gpu=none" in found:
            found = [word for word in found if not word.startswith("driver=")]
        return " ".join(found)

    return line()


cards = st.lists(
    st.tuples(st.sampled_from(CARDS), st.integers(1, 8)), min_size=1, max_size=2, unique_by=lambda card: card[0]
).map(lambda drawn: ",".join(f"{name}x{count}" for name, count in drawn))
drivers = st.sampled_from(DRIVERS)
_common = {
    "os": st.sampled_from(["ubuntu-22.04", "ubuntu-24.04", "debian-12", "rhel-9.4"]),
    "python": st.sampled_from(["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.15"]),
    "arch": st.sampled_from(["x86_64", "aarch64"]),
    "glibc": st.sampled_from(["2.17", "2.28", "2.31", "2.34", "2.35", "2.36", "2.39", "2.41", "none"]),
    "ram": st.sampled_from(["1", "8", "64", "1024"]),
    "disk": st.sampled_from(["1", "8", "40", "500"]),
    "container": st.sampled_from(["yes", "no"]),
}
nvidia_hosts = words(gpu=cards, driver=drivers | st.just("none"), **_common)
cpu_hosts = words(gpu=st.just("none"), cpu=st.sampled_from(["sse4_2", "avx2", "avx512", "amx"]), **_common)
amd_hosts = words(gpu=st.sampled_from(["MI300Xx8", "MI250x4", "MI100x1", "RX7900XTXx1"]), **_common)
hosts = nvidia_hosts | cpu_hosts | amd_hosts


def consistent(drawn: Settings) -> bool:
    """Return whether no two of the settings contradict each other."""
    try:
        policy_of(drawn)
    except UsageError:
        return False
    return True


settings = st.builds(
    Settings,
    vllm=st.sampled_from(RELEASES),
    driver=st.sampled_from(["keep", "install", "upgrade", "==570.195.03", "==580.95.05", "535", "595"]),
    driver_source=st.sampled_from(["auto", "vendor", "distribution"]),
    flash_attn=st.sampled_from(["auto", "package", "both", "bundled", "none", "==2.8.0.post2"]),
    flash_attn_wheels=st.sampled_from(["official", "community"]),
    builder=st.sampled_from([None, "controller"]),
    attention=st.sampled_from(["auto", "auto", "auto", "flash", "FLASHINFER", "TRITON_ATTN"]),
).filter(consistent)
