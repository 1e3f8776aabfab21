"""Which peers there are for a model on this machine, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from octavo.bench.peers.llama_cpp import LlamaCpp
from octavo.bench.peers.peer import Peer, Unavailable
from octavo.bench.peers.python_peer import KINDS, PythonPeer

PEERS = ("llama.cpp", *KINDS)


def find_peers(
    names: Sequence[str],
    model: Path,
    threads: int,
    *,
    programs: Path | None,
    pythons: Sequence[str],
    on_progress: Callable[[str], None],
) -> tuple[list[Peer], dict[str, str]]:
    """The peers that can run, and for each other one the reason.

    `programs` is the directory of llama.cpp's; each of `pythons` is tried for the libraries. Raises
    ValueError when `programs` does not hold llama.cpp's programs.
    """
    found: list[Peer] = []
    skipped: dict[str, str] = {}
    for name in names:
        on_progress(f"starting {name}")
        try:
            if name == "llama.cpp":
                if programs is None:
                    raise Unavailable("no --peer-bin was given")
                found.append(LlamaCpp(programs, model, threads))
            else:
                found.append(_first(name, pythons, model, threads))
        except Unavailable as error:
            skipped[name] = str(error)
    return found, skipped


def close_peers(peers: Sequence[Peer]) -> None:
    """End those that have a process."""
    for peer in peers:
        if isinstance(peer, PythonPeer):
            peer.close()


def _first(name: str, pythons: Sequence[str], model: Path, threads: int) -> PythonPeer:
    """The peer in the first interpreter that can run it."""
    reasons = []
    for python in pythons:
        try:
            return PythonPeer(name, python, model, threads)
        except Unavailable as error:
            reasons.append(f"{python}: {error}")
    raise Unavailable("; ".join(reasons))
