"""What a family is: which architectures it goes by and how their checkpoints describe a decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from octavo.formats.fields import Fields
from octavo.formats.gguf import GGUFFile
from octavo.model.spec import DecoderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A model family. `from_hf` reads config.json, `from_gguf` an opened file; both raise ValueError.

    `gguf_interleaved` says that its GGUFs store the rows of q and k in the order of interleaved rotary pairs.
    """

    hf_architectures: tuple[str, ...]
    from_hf: Callable[[Fields], DecoderSpec]
    gguf_architectures: tuple[str, ...] = ()
    from_gguf: Callable[[GGUFFile], DecoderSpec] | None = None
    gguf_interleaved: bool = False
