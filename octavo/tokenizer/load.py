"""A model's tokenizer, from wherever its files have it."""

from __future__ import annotations

from pathlib import Path

from octavo.tokenizer.tokenizer import Tokenizer


def load_tokenizer(model_path: Path, override: str | None = None) -> Tokenizer:
    """The tokenizer of a model: a GGUF file's own, or the tokenizer.json of a Hugging Face directory.

    `override` names another GGUF file, directory or tokenizer.json to take it from.
    Raises ValueError naming the file and what is wrong with it.
    """
    path = Path(override) if override is not None else model_path
    name = "tokenizer" if override is not None else "model"
    if not path.exists():
        raise ValueError(f"{name}: there is no {path}")
    if path.is_dir():
        from octavo.tokenizer.huggingface import tokenizer_from_directory

        return tokenizer_from_directory(path)
    if path.suffix == ".json":
        from octavo.tokenizer.huggingface import tokenizer_from_directory

        return tokenizer_from_directory(path.parent, path.name)
    from octavo.formats.gguf import GGUFFile
    from octavo.tokenizer.gguf import tokenizer_from_metadata

    try:
        return tokenizer_from_metadata(GGUFFile(path).metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
