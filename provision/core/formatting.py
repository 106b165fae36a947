"""Formatting of byte counts."""

GIB = 1 << 30


def format_bytes(count_of_bytes: int) -> str:
    """Format bytes in binary units: `80.0 GiB`."""
    value = float(count_of_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
