"""Peak memory of this very process, for the benchmarks that measure themselves. Linux only; no benchmark itself."""

from __future__ import annotations

from pathlib import Path


def peak_mb() -> float:
    """Largest resident set since the last `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def forget_peak() -> float:
    """The resident set now becomes the peak; returns it."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()
