"""What `octavo quantize` is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from octavo.config import check_settings, setting

SAFETENSORS_FORMATS = ("int8", "int4", "fp8", "f32", "f16", "bf16")
GGUF_FORMATS = ("gguf-q8_0", "gguf-q4_1", "gguf-q4_0", "gguf-f32", "gguf-f16", "gguf-bf16")
INTEGER_FORMATS = ("int8", "int4", "gguf-q8_0", "gguf-q4_1", "gguf-q4_0")


@dataclass(slots=True, kw_only=True)
class QuantiseConfig:
    """A checkpoint to read, what to write, and how to round."""

    model: str = setting("", "The checkpoint to read: a GGUF file or a Hugging Face directory.", "Files")
    output: str = setting("", "The directory, or GGUF file, to write.", "Files")
    format: str = setting(
        "int4",
        "What to write: a Hugging Face directory in the layout of compressed-tensors (int8, int4, fp8), one "
        "that is not quantised (f32, f16, bf16), or a GGUF file.",
        "Quantisation",
        choices=SAFETENSORS_FORMATS + GGUF_FORMATS,
    )
    method: str = setting(
        "rtn",
        "How codes are chosen: rounded to the nearest (rtn); after AWQ's scaling of the columns "
        "that meet large inputs (awq); or so that each column makes up for the errors of the "
        "columns before it (gptq).",
        "Quantisation",
        choices=("rtn", "awq", "gptq"),
    )
    group_size: int | None = setting(
        None,
        "Neighbouring inputs that share a scale, for int8 and int4: 32, 64 or 128. Default: 32.",
        "Quantisation",
        low=32,
        high=128,
    )
    zero_points: bool = setting(
        False, "Give each group of int4 a zero point as well: better for 4 bits, and larger.", "Quantisation"
    )
    calibration: str | None = setting(
        None,
        "A text file (UTF-8) that awq and gptq run the model on. Default: a page of mixed text "
        "that comes with octavo. A text like those that the model will be given is better.",
        "Calibration",
    )
    calibration_tokens: int = setting(
        4096, "Most tokens of the text to use.", "Calibration", unit="tokens", low=16, high=1 << 20
    )

    def __post_init__(self) -> None:
        check_settings(self)
        packed = self.format in ("int8", "int4")
        if self.group_size not in (None, 32, 64, 128) or (self.group_size and not packed):
            raise ValueError(
                f"group_size (--group-size) is 32, 64 or 128, for int8 and int4; got {self.group_size} "
                f"for {self.format}"
            )
        if self.zero_points and self.format != "int4":
            raise ValueError(f"zero_points (--zero-points) are for int4, not for {self.format}")
        allowed = (*INTEGER_FORMATS, "fp8") if self.method == "gptq" else INTEGER_FORMATS
        if self.method != "rtn" and self.format not in allowed:
            raise ValueError(
                f"method (--method) {self.method} is for {', '.join(allowed)}, not for {self.format}"
            )
        if self.calibration is not None and self.method == "rtn":
            raise ValueError("calibration (--calibration) is for --method awq and gptq; rtn uses no text")
