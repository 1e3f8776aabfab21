"""The ISA tier that the kernels run on."""

from __future__ import annotations

import os

from octavo import _native


def available_isas() -> list[str]:
    """The ISA tiers of this processor, plainest first: "portable", "avx2", "avx512" or "portable", "neon"."""
    return list(_native.isas())


def choose_isa() -> str:
    """The tier to run on: the best there is, or the one that OCTAVO_ISA names.

    Raises ValueError where OCTAVO_ISA names one that the processor does not have.
    """
    isas = available_isas()
    wanted = os.environ.get("OCTAVO_ISA")
    if wanted and wanted not in isas:
        raise ValueError(f"OCTAVO_ISA must be one of {', '.join(isas)} on this processor, got {wanted!r}")
    return wanted or isas[-1]
