"""What a process may use, in the layouts that kernels and containers show."""

from __future__ import annotations

from pathlib import Path

import pytest

from octavo.machine.memory import Memory, machine_memory

GIB = 1 << 30
MEMINFO = f"MemTotal: {8 * GIB >> 10} kB\nMemFree: 1 kB\nMemAvailable: {6 * GIB >> 10} kB\n"
MACHINE = Memory(8 * GIB, 6 * GIB)


def read(root: Path, files: dict[str, object]) -> Memory:
    """`machine_memory` on a machine with these files."""
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return machine_memory(root / "proc", root / "cgroup")


V1_NONE = 9223372036854771712


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, MACHINE, id="no-groups"),
        pytest.param({"proc/self/cgroup": "0::/", "cgroup/cpu.stat": ""}, MACHINE, id="v2-root"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b",
                "cgroup/a/b/memory.max": "max",
                "cgroup/a/b/memory.current": GIB,
                "cgroup/a/memory.max": 4 * GIB,
                "cgroup/a/memory.current": 3 * GIB,
                "cgroup/a/memory.stat": f"anon {GIB}\ninactive_file {2 * GIB}",
            },
            Memory(4 * GIB, 3 * GIB),
            id="v2-parent-limits",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/../../elsewhere",
                "cgroup/memory.max": 2 * GIB,
                "cgroup/memory.current": 3 * GIB,
            },
            Memory(2 * GIB, 0),
            id="v2-namespace-over-its-limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x",
                "cgroup/memory/x/memory.limit_in_bytes": 3 * GIB,
                "cgroup/memory/x/memory.usage_in_bytes": GIB,
                "cgroup/memory/x/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB // 2}",
                "cgroup/memory/memory.limit_in_bytes": V1_NONE,
                "cgroup/memory/memory.usage_in_bytes": 7 * GIB,
            },
            Memory(3 * GIB, 2 * GIB + GIB // 2),
            id="v1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/docker/0123\n0::/",
                "cgroup/memory/memory.limit_in_bytes": GIB,
                "cgroup/memory/memory.usage_in_bytes": 0,
            },
            Memory(GIB, GIB),
            id="v1-seen-from-inside",
        ),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, files: dict[str, object], expected: Memory):
    assert read(tmp_path, files) == expected


def test_this_machine_has_memory():
    memory = machine_memory()
    assert 0 < memory.available <= memory.total


def test_without_proc_all_memory_counts(tmp_path: Path):
    memory = machine_memory(tmp_path / "proc", tmp_path / "cgroup")
    assert memory.total == memory.available > 1 << 20
