"""Files of a model's folder, and of no other place."""

from __future__ import annotations

from pathlib import Path


def file_inside(folder: Path, name: str) -> Path:
    """The file `name` of `folder`, there or not.

    It may be a link within the folder, or as in Hugging Face's cache from snapshots/REVISION to blobs beside
    it. Raises ValueError for a name with a directory in it, and for a link that leads elsewhere. A model from
    somebody else must not choose which of our files are read.
    """
    if not is_file_name(name):
        raise ValueError(f"{folder}: {name!r:.80} is not the name of a file in this folder")
    path = folder / name
    if path.is_symlink():
        home, target = folder.resolve(), path.resolve()
        blobs = home.parent.parent / "blobs"
        if not (target.is_relative_to(home) or (home.parent.name == "snapshots" and target.parent == blobs)):
            raise ValueError(
                f"{path}: is a link to a file outside of its folder; copy the file, or move the folder"
            )
    return path


def is_file_name(name: object) -> bool:
    """Whether `name` is a file's name with no directory in it, of a length that file systems take."""
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\"):
        return False
    return name.isprintable() and len(name.encode()) <= 255
