"""How much memory this process may use: the machine's, or less where a control group limits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: `total` is the limit, `available` what can still be taken without swapping."""

    total: int
    available: int


def machine_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Memory:
    """The tightest of the machine's memory and every control group (version 1 or 2) around this process.

    Page cache that can be dropped counts as available. Sources: the Linux documentation's
    admin-guide/cgroup-v1/memory.rst, admin-guide/cgroup-v2.rst and filesystems/proc.rst.
    """
    memory = _machine(proc)
    for limit, usage in _limits(proc, cgroups):
        memory = Memory(min(memory.total, limit), max(0, min(memory.available, limit - usage)))
    return memory


def _machine(proc: Path) -> Memory:
    fields = _fields(proc / "meminfo")
    if "MemTotal:" in fields:
        total = fields["MemTotal:"] << 10
        return Memory(total, fields.get("MemAvailable:", fields["MemTotal:"]) << 10)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # Not Linux.
    return Memory(total, total)


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[int, int]]:
    """(limit, usage) in bytes of each group that has a limit, from the innermost out."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy == "0":
            root, names = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # A container may see the path that its group has outside, which is not there: its root is.
        relative = PurePosixPath(path.lstrip("/"))
        folders = [relative, *relative.parents] if ".." not in relative.parts else [PurePosixPath()]
        for folder in dict.fromkeys([*folders, PurePosixPath()]):
            limit = _read(root / folder / names[0]).strip()
            if limit.isdecimal():  # "max" is none.
                used = int(_read(root / folder / names[1]).strip() or 0)
                yield int(limit), used - _fields(root / folder / "memory.stat").get(names[2], 0)


def _fields(path: Path) -> dict[str, int]:
    """The `name value ...` lines of a file; empty when there is no such file."""
    words = (line.split() for line in _read(path).splitlines())
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdecimal()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
