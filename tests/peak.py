"""Peak resident memory of a process, without what it has from the one that started it."""

from pathlib import Path


def peak_mib() -> float:
    """High-water mark of this program in MiB.

    ``ru_maxrss`` outlives an exec: it begins with what the parent had, so that whatever a child of
    a large process does looks small beside it (https://man7.org/linux/man-pages/man5/proc.5.html
    has ``VmHWM``, which begins anew).
    """
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
