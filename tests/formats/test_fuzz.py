"""A few hundred broken models of every kind; `python tests/support/fuzz.py --count 20000` breaks more."""

from __future__ import annotations

import pytest
from support.fuzz import survive
from support.fuzz_targets import TARGETS

from octavo.formats.inside import file_inside


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_broken_files(target, tmp_path):
    assert survive(target, 40 if target.reader == target.name else 12, seed=1, folder=tmp_path) > 0


def test_links_out_of_the_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    folder = tmp_path / "hub" / "snapshots" / "abc"
    blobs = tmp_path / "hub" / "blobs"
    for each in (folder, blobs):
        each.mkdir(parents=True)
    (blobs / "hash").write_text("{}")
    (folder / "in.json").symlink_to("../../blobs/hash")  # as the hub's cache has them
    (folder / "again.json").symlink_to("in.json")
    assert file_inside(folder, "in.json").read_text() == "{}"
    assert file_inside(folder, "again.json").read_text() == "{}"
    for name, target in (("a", secret), ("b", "../../../secret"), ("c", "/etc/passwd"), ("d", folder.parent)):
        (folder / name).symlink_to(target)
        with pytest.raises(ValueError, match="is a link to a file outside of its folder"):
            file_inside(folder, name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/x", "a/b", "a\\b", "a\0", "\ud800", "x" * 300, None, 3]
)
def test_names_that_are_none(name, tmp_path):
    with pytest.raises(ValueError, match="is not the name of a file in this folder"):
        file_inside(tmp_path, name)
