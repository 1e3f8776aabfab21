"""The op table of Python and that of C++ hold the same ops."""

from __future__ import annotations

import pytest

from octavo.runtime.ops import OPS


def test_both_tables_have_the_same_ops():
    native = pytest.importorskip("octavo._native", exc_type=ImportError)
    assert native.op_names() == sorted(OPS)


def test_names_are_those_of_the_definitions():
    assert all(name == op.name for name, op in OPS.items())
