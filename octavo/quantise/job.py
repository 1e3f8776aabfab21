"""`octavo quantize`: read a checkpoint, round its matrices, write another.

It can be stopped at any time and gone on with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import octavo
from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.gguf import GGUFFile
from octavo.formats.groups import Floats, Groups
from octavo.formats.safetensors import SafetensorsDirectory
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import CHUNK_VALUES
from octavo.model.decoder import trace
from octavo.model.families.registry import family_of, family_of_gguf
from octavo.model.load import ModelInfo, describe, resolve_model
from octavo.quantise import gguf_metadata, hf_files
from octavo.quantise.awq import awq_scalings
from octavo.quantise.calibration import Sequences
from octavo.quantise.config import GGUF_FORMATS, QuantiseConfig
from octavo.quantise.forms import Arrays, Plain, plain
from octavo.quantise.gguf_output import FILE_TYPES, GGUFOutput
from octavo.quantise.gptq import gptq_linears
from octavo.quantise.layout import Layout
from octavo.quantise.output import Output
from octavo.quantise.safetensors_output import SafetensorsOutput
from octavo.quantise.sample_text import SAMPLE_TEXT
from octavo.quantise.scheme import scheme_of
from octavo.quantise.source import Source
from octavo.tokenizer.load import load_tokenizer
from octavo.tokenizer.tokenizer import Tokenizer

SEQUENCE_TOKENS = 512
"""Tokens of a calibration sequence."""

Report = Callable[[str, int, int], None]
"""Told what is being done, how many steps of it are done, and how many there are."""


def quantise(config: QuantiseConfig, report: Report = lambda what, done, total: None) -> Path:
    """Write the checkpoint that `config` asks for; gives its path.

    What an earlier run with the same settings left there is gone on with. Raises ValueError, naming the file
    or the flag, for what cannot be read or written.
    """
    path, target = resolve_model(config.model), Path(config.output).expanduser()
    _check_target(target, config)
    checkpoint = open_checkpoint(path)
    info = describe(checkpoint)
    source = Source(checkpoint, info.spec)
    tokenizer = load_tokenizer(path)
    job = _fingerprint(config, path)
    output = _open_output(config, checkpoint, info, source, tokenizer, target, job)

    scalings: dict[str, Scaling] = {}
    if config.method == "awq":
        scalings = _scalings(config, source, tokenizer, target, job, report)
    elif config.method == "gptq":
        _write_gptq(config, source, tokenizer, output, report)
    total = len(source.stored)
    for number, name in enumerate(source.stored):
        if not output.has(name):
            output.write(name, _rounded(source, name, output, scalings.get(name, Scaling())))
        report("weights", number + 1, total)
    output.finish()
    if isinstance(output, SafetensorsOutput) and isinstance(checkpoint, SafetensorsDirectory):
        hf_files.copy_files(path, target)
    elif isinstance(output, SafetensorsOutput):
        hf_files.write_files(info, tokenizer, target)
    _scalings_file(target).unlink(missing_ok=True)
    return target


def _check_target(target: Path, config: QuantiseConfig) -> None:
    gguf = config.format in GGUF_FORMATS
    if gguf and target.suffix != ".gguf":
        raise ValueError(f"output {target}: the name of a GGUF file ends in .gguf")
    if (gguf and target.exists()) or (target / "config.json").exists() or (not gguf and target.is_file()):
        raise ValueError(f"output {target} is there already; give another name")


def _fingerprint(config: QuantiseConfig, path: Path) -> str:
    """What has to be the same for the work of an earlier run to be used."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    if config.calibration is not None and Path(config.calibration).is_file():
        text = Path(config.calibration)
        stats.append((str(text.resolve()), text.stat().st_size, text.stat().st_mtime_ns))
    settings = dataclasses.asdict(config) | {"output": "", "version": octavo.__version__}
    told = json.dumps([settings, stats])
    return hashlib.sha256(told.encode()).hexdigest()


def _open_output(
    config: QuantiseConfig,
    checkpoint: GGUFFile | SafetensorsDirectory,
    info: ModelInfo,
    source: Source,
    tokenizer: Tokenizer,
    target: Path,
    job: str,
) -> Output:
    if config.format not in GGUF_FORMATS:
        hf_config = (
            checkpoint.config
            if isinstance(checkpoint, SafetensorsDirectory)
            else hf_files.config_of(info, tokenizer, "float32" if config.format == "f32" else "float16")
        )
        layout = Layout(family_of(checkpoint).hf_weights, info.spec, source.stored)
        return SafetensorsOutput(target, source.stored, layout, config, hf_config, job)
    file_type = FILE_TYPES[config.format.removeprefix("gguf-").upper()]
    vectors: dict[str, Floats] = {}
    if isinstance(checkpoint, GGUFFile):
        metadata = gguf_metadata.copied(checkpoint, file_type)
        if "rope_freqs.weight" in checkpoint.tensors:
            vectors["rope_freqs.weight"] = checkpoint.tensor("rope_freqs.weight").to_float32()
        family = family_of(checkpoint)
    else:
        metadata, vectors = gguf_metadata.described(info, tokenizer, checkpoint.path.name, file_type)
        family = family_of_gguf(gguf_metadata.ARCHITECTURES[info.spec.family])
    layout = Layout(family.gguf_weights, info.spec, source.stored)
    return GGUFOutput(target, source.stored, layout, config, metadata, vectors, job)


def _rounded(source: Source, name: str, output: Output, scaling: Scaling) -> Arrays:
    """The weight `name` as its form's arrays, made a slice of rows at a time."""
    scheme = output.scheme(name)
    shape, order = source.shape(name), output.row_order(name)
    rows = np.arange(shape[0]) if order is None else order
    if len(shape) == 1:
        assert isinstance(scheme.form, Plain)
        return [plain(scaling.apply(source[name])[rows], scheme.form.dtype)]
    step = max(8, CHUNK_VALUES * 4 // shape[1] // 8 * 8)
    parts = []
    for start in range(0, len(rows), step):
        own = rows[start : start + step]
        try:
            parts.append(
                scheme.form.encode(
                    scheme.round(scaling.apply(source.rows(name, own), own), scaling.importance)
                )
            )
        except ValueError as error:
            raise ValueError(f"{source.path}: {name} {error}") from None
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _write_gptq(
    config: QuantiseConfig, source: Source, tokenizer: Tokenizer, output: Output, report: Report
) -> None:
    linears = [name for name in source.stored if name.startswith("layers.") and len(source.shape(name)) > 1]
    if all(output.has(name) for name in linears):
        return
    done = 0
    first = output.scheme(linears[0])

    def write(name: str, groups: Groups) -> None:
        nonlocal done
        if (order := output.row_order(name)) is not None:
            groups = groups.take(order)
        output.write(name, output.scheme(name).form.encode(groups))
        done += 1
        report("GPTQ", done, len(linears))

    def written(name: str) -> Floats | None:
        nonlocal done
        if not output.has(name):
            return None
        done += 1
        report("GPTQ", done, len(linears))
        return output.values(name)

    gptq_linears(source.spec, source, _sequences(config, source, tokenizer), first, write, written)


def _scalings_file(target: Path) -> Path:
    return target.with_name(target.name + ".scalings")


def _scalings(
    config: QuantiseConfig, source: Source, tokenizer: Tokenizer, target: Path, job: str, report: Report
) -> dict[str, Scaling]:
    """AWQ's scalings: those of an earlier run where there was one."""
    path = _scalings_file(target)
    try:
        stored = load_file(path)
    except (OSError, SafetensorError):
        stored = {}
    if stored.pop("job", np.zeros(0)).tobytes() == job.encode():
        kept: dict[str, Scaling] = {}
        for key, values in stored.items():
            name, _, part = key.rpartition(":")
            setattr(kept.setdefault(name, Scaling()), part, values)
        return kept
    number, total = 0, sum(each.op == "linear" for each in trace(source.spec).instructions) - 1

    def done() -> None:
        nonlocal number
        number += 1
        report("AWQ", number, total)

    scheme, sequences = scheme_of(config), _sequences(config, source, tokenizer)
    found = awq_scalings(source.spec, source, sequences, scheme.round, scheme.size, done)
    arrays = {
        f"{name}:{part}": np.ascontiguousarray(values)
        for name, scaling in found.items()
        for part, values in dataclasses.asdict(scaling).items()
        if values is not None
    }
    part_path = path.with_name(path.name + ".part")
    save_file({**arrays, "job": np.frombuffer(job.encode(), np.uint8)}, part_path)
    part_path.replace(path)
    return found


def _sequences(config: QuantiseConfig, source: Source, tokenizer: Tokenizer) -> Sequences:
    """The calibration text as sequences of token ids. Raises ValueError for a file that is not a text."""
    text = SAMPLE_TEXT
    if config.calibration is not None:
        try:
            with Path(config.calibration).open(encoding="utf-8") as file:
                # No tokenizer makes tokens of more than some tens of characters.
                text = file.read(config.calibration_tokens * 16)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ValueError(
                f"calibration (--calibration) {config.calibration}: cannot read: {reason}"
            ) from error
    token_ids = tokenizer.encode(text)[: config.calibration_tokens]
    if not token_ids:
        raise ValueError(f"calibration (--calibration) {config.calibration}: has no text")
    if max(token_ids) >= source.spec.vocab_size:
        raise ValueError(
            f"{source.path}: the tokenizer has token {max(token_ids)}, the model {source.spec.vocab_size}"
        )
    length = min(SEQUENCE_TOKENS, source.spec.max_position)
    return [token_ids[start : start + length] for start in range(0, len(token_ids), length)]
