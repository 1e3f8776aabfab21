"""Writes a GGUF with random weights: a model of any size to time, with a real tokenizer.

Octavo and llama.cpp both read it, so that they are compared on the same file:

    python benchmarks/random_gguf.py DEMO.gguf 1b-q4_0.gguf --encoding Q4_0

makes a Llama of 1.1 billion parameters (16 layers, 2048/8192, 32/8 heads) with the tokenizer of DEMO.gguf.
Needs the `gguf` package (octavo's [dev] extra).
"""

from __future__ import annotations

import argparse

import gguf
import numpy as np

BLOCKS = {
    "Q4_0": (gguf.GGMLQuantizationType.Q4_0, 18, 2),
    "Q4_1": (gguf.GGMLQuantizationType.Q4_1, 20, 4),
    "Q8_0": (gguf.GGMLQuantizationType.Q8_0, 34, 2),
    "BF16": (gguf.GGMLQuantizationType.BF16, 64, 0),
}


def random_weight(rng: np.random.Generator, encoding: str, rows: int, cols: int) -> np.ndarray:
    """Raw bytes `[rows, bytes]` whose values have a deviation of about 1 / sqrt(cols)."""
    _, block_bytes, header = BLOCKS[encoding]
    spread = cols**-0.5
    if encoding == "BF16":
        values = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(spread)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    groups = rng.integers(0, 256, (rows, cols // 32, block_bytes), dtype=np.uint8)
    if encoding == "Q8_0":
        scales = np.full((rows, cols // 32, 1), spread / 74, np.float16)
    else:
        scales = np.full((rows, cols // 32, 1), spread / 4.6, np.float16)
        if encoding == "Q4_1":
            scales = np.concatenate([scales, scales * np.float16(-7.5)], axis=2)
    groups[..., :header] = scales.view(np.uint8)
    return groups.reshape(rows, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tokenizer", help="a Llama GGUF whose tokenizer and chat template are copied")
    parser.add_argument("output")
    parser.add_argument("--encoding", choices=list(BLOCKS), default="Q4_0")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=8192)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--context", type=int, default=8192)
    args = parser.parse_args()

    source = gguf.GGUFReader(args.tokenizer)
    writer = gguf.GGUFWriter(args.output, "llama")
    for name, field in source.fields.items():
        if name.startswith("tokenizer."):
            kind = field.types[0]
            sub_type = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type)
    vocabulary = len(source.fields["tokenizer.ggml.tokens"].data)
    head_dim = args.hidden // args.heads
    writer.add_name(f"random-{args.layers}x{args.hidden}-{args.encoding}")
    writer.add_block_count(args.layers)
    writer.add_context_length(args.context)
    writer.add_embedding_length(args.hidden)
    writer.add_feed_forward_length(args.intermediate)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(args.kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)

    rng = np.random.default_rng(0)

    def add(name: str, rows: int, cols: int) -> None:
        data = random_weight(rng, args.encoding, rows, cols)
        writer.add_tensor(name, data, raw_dtype=BLOCKS[args.encoding][0])

    def add_norm(name: str) -> None:
        writer.add_tensor(name, np.ones(args.hidden, np.float32))

    add("token_embd.weight", vocabulary, args.hidden)
    add_norm("output_norm.weight")
    for layer in range(args.layers):
        prefix = f"blk.{layer}."
        add_norm(prefix + "attn_norm.weight")
        add_norm(prefix + "ffn_norm.weight")
        add(prefix + "attn_q.weight", args.hidden, args.hidden)
        add(prefix + "attn_k.weight", args.kv_heads * head_dim, args.hidden)
        add(prefix + "attn_v.weight", args.kv_heads * head_dim, args.hidden)
        add(prefix + "attn_output.weight", args.hidden, args.hidden)
        add(prefix + "ffn_gate.weight", args.intermediate, args.hidden)
        add(prefix + "ffn_up.weight", args.intermediate, args.hidden)
        add(prefix + "ffn_down.weight", args.hidden, args.intermediate)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
