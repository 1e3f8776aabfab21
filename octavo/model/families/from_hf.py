"""What the families' config.json files have in common."""

from __future__ import annotations

from octavo.formats.fields import Fields
from octavo.model.bounds import MAX_LAYERS
from octavo.model.parts.activation import GATED
from octavo.model.rope import LinearScaling, Llama3Scaling, Rope, YarnScaling, yarn_attention_factor
from octavo.model.spec import ModelSpec
from octavo.model.uniform import uniform_decoder


def spec_from_hf(config: Fields, family: str) -> ModelSpec:
    """The decoder of config.json: Llama without biases; families replace what differs.

    Raises ValueError naming a field that is missing, out of bounds, or asks for what octavo does not have.
    """
    if (activation := config.text("hidden_act", "silu")) not in GATED:
        raise config.error("hidden_act", f"is {activation!r:.80}; octavo has {', '.join(GATED)}")
    hidden_size, num_heads = config.size("hidden_size"), config.size("num_attention_heads")
    max_position = config.size("max_position_embeddings")
    head_dim = config.size("head_dim", hidden_size // num_heads)
    rope = rope_from_hf(config, head_dim, max_position)
    return uniform_decoder(
        family=family,
        # A model of more has to be refused before there is a record for each of its layers.
        num_layers=config.size("num_hidden_layers", high=MAX_LAYERS),
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_kv_heads=config.size("num_key_value_heads", num_heads),
        head_dim=head_dim,
        intermediate_size=config.size("intermediate_size"),
        vocab_size=config.size("vocab_size"),
        max_position=rope.max_position(max_position),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope=rope,
        activation=activation,
        tie_embeddings=config.flag("tie_word_embeddings", False),
    )


def rope_from_hf(config: Fields, head_dim: int, max_position: int) -> Rope:
    """The rotary embedding of config.json: rope_parameters (transformers 5), or rope_theta and rope_scaling.

    "dynamic" is the unscaled embedding, as transformers has it up to max_position_embeddings, the length that
    octavo allows. Raises ValueError for a type that octavo does not have.
    """
    rope = config.group("rope_parameters" if "rope_parameters" in config else "rope_scaling")
    kind = rope.text("rope_type", rope.text("type", "default"))
    if "full_attention" in rope or "sliding_attention" in rope:
        raise config.error("rope_parameters", "differ by layer, which octavo does not have")
    if rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0)) != 1.0:
        raise config.error("partial_rotary_factor", "must be 1 for this architecture")
    theta = rope.number("rope_theta", config.number("rope_theta", 10_000.0))
    outer_original = config.size("original_max_position_embeddings", max_position)
    original = rope.size("original_max_position_embeddings", outer_original)
    match kind:
        case "default" | "dynamic":
            return Rope(dim=head_dim, theta=theta)
        case "linear":
            return Rope(dim=head_dim, theta=theta, scaling=LinearScaling(factor=rope.number("factor")))
        case "llama3":
            llama3 = Llama3Scaling(
                factor=rope.number("factor"),
                low_freq_factor=rope.number("low_freq_factor"),
                high_freq_factor=rope.number("high_freq_factor"),
                original_max_position=original,
            )
            return Rope(dim=head_dim, theta=theta, scaling=llama3)
        case "yarn":
            return Rope(dim=head_dim, theta=theta, scaling=_yarn(rope, max_position, original))
    raise rope.error("rope_type", f"is {kind!r:.80}; octavo has default, linear, dynamic, llama3 and yarn")


def _yarn(rope: Fields, max_position: int, original: int) -> YarnScaling:
    factor = rope.number("factor", max_position / original)
    attention_factor = yarn_attention_factor(factor)
    if "mscale" in rope and "mscale_all_dim" in rope:
        scales = rope.number("mscale"), rope.number("mscale_all_dim")
        attention_factor = yarn_attention_factor(factor, *scales)
    return YarnScaling(
        factor=factor,
        original_max_position=original,
        attention_factor=rope.number("attention_factor", attention_factor),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
    )


def layer_windows(config: Fields, num_layers: int) -> tuple[int, ...]:
    """Qwen's windows: none without use_sliding_window, else as layer_types or from max_window_layers on."""
    if not config.flag("use_sliding_window", False) or "sliding_window" not in config:
        return (0,) * num_layers
    window = config.size("sliding_window")
    if "layer_types" in config:
        return windows_by_type(config, num_layers, window)
    first = config.size("max_window_layers", 28, low=0)
    return tuple(window if layer >= first else 0 for layer in range(num_layers))


def windows_by_type(config: Fields, num_layers: int, window: int) -> tuple[int, ...]:
    """`window` for the layers that layer_types says have one, 0 for the others."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise config.error("layer_types", f"must be a list of {num_layers} layers")
    sizes = {"full_attention": 0, "sliding_attention": window}
    if unknown := [kind for kind in kinds if not isinstance(kind, str) or kind not in sizes]:
        raise config.error("layer_types", f"has {unknown[0]!r:.80}; octavo has {' and '.join(sizes)}")
    return tuple(sizes[kind] for kind in kinds)
