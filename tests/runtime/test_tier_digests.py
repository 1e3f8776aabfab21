"""Tiers with instructions of their own give the same bits, in every kernel."""

from __future__ import annotations

import numpy as np
import pytest
from support.tier_digests import results

from octavo.machine.isa import available_isas

TIERS = [each for each in available_isas() if each != "portable"]


@pytest.mark.skipif(len(TIERS) < 2, reason="the processor has one tier only")
def test_tiers_give_the_same_bits() -> None:
    for (name, first), (_, second) in zip(results(TIERS[0]), results(TIERS[1]), strict=True):
        assert np.isfinite(first).all(), name
        np.testing.assert_array_equal(first.view(np.uint32), second.view(np.uint32), err_msg=name)
