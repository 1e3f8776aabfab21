"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import msgspec

from octavo.machine.cpus import usable_cpus


class Machine(msgspec.Struct, kw_only=True):
    """What to know of a machine before its figures are compared with another's."""

    cpu: str
    cpus: int  # that this process may use
    l3_cache: str
    memory_bytes: int
    system: str
    load_average: float  # of the last minute

    def lines(self) -> list[str]:
        """The facts, for a terminal."""
        cache = f", {self.l3_cache} of L3 cache" if self.l3_cache else ""
        return [
            f"{self.cpu}, {self.cpus} CPUs{cache}, {self.memory_bytes / 1e9:.1f} GB of memory",
            f"{self.system}, load average {self.load_average:.2f} at the start",
        ]


def this_machine() -> Machine:
    """The facts of the machine that this runs on."""
    return Machine(
        cpu=_cpu_name(),
        cpus=usable_cpus(),
        l3_cache=_read("/sys/devices/system/cpu/cpu0/cache/index3/size").strip(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        load_average=os.getloadavg()[0],
    )


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
