"""Accelerators, as their makers' data sheets have them: dense rates, no sparsity."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """Memory in bytes, rates a second; `link_bandwidth` is to the other devices, both directions together."""

    name: str
    memory: float
    bandwidth: float
    flops_16bit: float
    flops_8bit: float
    link_bandwidth: float


def _device(
    name: str, gigabytes: float, gb_s: float, tflops: float, tflops_8bit: float, link: float
) -> Device:
    return Device(name, gigabytes * 1e9, gb_s * 1e9, tflops * 1e12, tflops_8bit * 1e12, link * 1e9)


DEVICES = {
    device.name.lower(): device
    for device in (
        _device("T4", 16, 320, 65, 130, 32),
        _device("V100-32", 32, 900, 125, 125, 300),
        _device("A10G", 24, 600, 70, 140, 64),
        _device("L4", 24, 300, 121, 242, 64),
        _device("L40S", 48, 864, 362, 733, 64),
        _device("RTX3090", 24, 936, 71, 142, 32),
        _device("RTX4090", 24, 1008, 165, 330, 32),
        _device("A100-40", 40, 1555, 312, 624, 600),
        _device("A100-80", 80, 2039, 312, 624, 600),
        _device("H100-80", 80, 3350, 989, 1979, 900),
        _device("H200", 141, 4800, 989, 1979, 900),
        _device("B200", 180, 8000, 2250, 4500, 1800),
        _device("MI300X", 192, 5300, 1307, 2615, 896),
    )
}


def parse_devices(text: str) -> tuple[int, Device]:
    """`2xA100-80` as how many and which; raises ValueError, naming the flag, for what is not known."""
    hint = ". "
    match = re.fullmatch(r"(?:([0-9]{1,4})x)?([a-z0-9-]+)", text.strip().lower())
    if match is not None:
        count, name = int(match.group(1) or 1), match.group(2).removesuffix("gb")
        if name in DEVICES and count > 0:
            return count, DEVICES[name]
        near = difflib.get_close_matches(name, DEVICES, n=2, cutoff=0.4)
        if near:
            hint = f"; did you mean {' or '.join(DEVICES[each].name for each in near)}? "
    known = ", ".join(device.name for device in DEVICES.values())
    raise ValueError(f"gpu (--gpu): {text!r} is not like 2xA100-80{hint}Known are {known}")
