"""AWQ's scaling: it leaves what the model computes as it was, and helps where inputs have outliers."""

from __future__ import annotations

import numpy as np
import pytest
from support.batches import run_schedule
from support.tiny_models import CONFIGS, make_model

from octavo.formats.checkpoint import open_checkpoint
from octavo.formats.rounding import round_int4
from octavo.formats.scaling import Scaling
from octavo.formats.tensor import Tensor
from octavo.model.decoder import trace
from octavo.model.load import describe
from octavo.quantise import folding
from octavo.quantise import source as source_module
from octavo.quantise.awq import awq_scalings
from octavo.quantise.calibration import CalibrationRun
from octavo.quantise.source import Source
from octavo.runtime.backend import Limits
from octavo.runtime.kv_cache import KVCacheSpec
from octavo.runtime.reference import ReferenceBackend

SEQUENCES = np.random.default_rng(4).integers(0, 160, (3, 40)).tolist()


def importance_blind(values, importance):
    return round_int4(values)


def source_of(name, path, outliers=()):
    model = make_model(name)
    for column in outliers:
        for layer in model.model.layers:
            layer.input_layernorm.weight.data[column] *= 30
            layer.post_attention_layernorm.weight.data[column] *= 30
    model.save_pretrained(path)
    checkpoint = open_checkpoint(path)
    return Source(checkpoint, describe(checkpoint).spec)


def logits(source, weights):
    spec = source.spec
    tensors = {name: Tensor.from_array(values) for name, values in weights.items()}
    tensors |= {name: Tensor.from_array(table) for name, table in spec.tables(64).items()}
    if spec.head.tied:
        tensors["lm_head.weight"] = tensors["embed.weight"]
    kv = KVCacheSpec(trace(spec).cache_layers, "float32")
    limits = Limits(64, 64, 1, 64, spec.vocab_size)
    executable = ReferenceBackend().compile(trace(spec), tensors, kv, limits)
    (rows,) = run_schedule(executable, SEQUENCES[:1], [[(0, 40)]])
    return np.stack([rows[position] for position in range(40)])


def said(caplog):
    return [each.getMessage() for each in caplog.records if each.name.startswith("octavo")]


def scaled(source, scalings):
    return {name: scalings.get(name, Scaling()).apply(values) for name, values in source.items()}


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "llama-wide"])
def test_the_model_computes_the_same(name, tmp_path, caplog):
    source = source_of(name, tmp_path, outliers=(5, 11))
    scalings = awq_scalings(source.spec, source, SEQUENCES, importance_blind)
    assert not said(caplog)
    folded = [name for name, each in scalings.items() if each.rows is not None]
    assert any("attn_norm" in name for name in folded)
    assert any("mlp_norm" in name for name in folded)
    assert any("attn.v" in name for name in folded)
    assert any("mlp.up" in name for name in folded)
    expected = logits(source, dict(source))
    # With such outliers, what float32 rounds off is 5e-5 of the logits' range in the worst of these models.
    assert np.allclose(logits(source, scaled(source, scalings)), expected, atol=2e-4 * np.ptp(expected))


@pytest.mark.parametrize(
    "rounding", [importance_blind, lambda values, importance: round_int4(values, 32, importance)]
)
def test_outliers_are_rounded_better(rounding, tmp_path):
    source = source_of("llama-wide", tmp_path, outliers=range(0, 256, 40))
    scalings = awq_scalings(source.spec, source, SEQUENCES, rounding)
    expected = logits(source, dict(source))

    def error(scalings):
        weights = {}
        for name, values in source.items():
            own = scalings.get(name, Scaling())
            weights[name] = own.apply(values)
            if values.ndim > 1 and "layers." in name:
                weights[name] = rounding(weights[name], own.importance).values()
        return np.square(logits(source, weights) - expected).mean()

    assert error(scalings) < 0.6 * error({})


def test_an_activation_that_no_factor_goes_through_is_named(tmp_path, monkeypatch, caplog):
    """Its MLPs' outputs stay as they are, all others are scaled, and the model computes the same."""
    monkeypatch.setattr(folding, "_GATED", set())
    source = source_of("llama", tmp_path, outliers=(5, 11))
    scalings = awq_scalings(source.spec, source, SEQUENCES, importance_blind)
    assert said(caplog) == [
        "AWQ does not scale mlp.down, in 3 layers: octavo cannot move factors of its inputs through silu_mul"
    ]
    assert not any("mlp.down" in name for name in scalings)
    assert any("attn.o" in name for name in scalings)
    expected = logits(source, dict(source))
    assert np.allclose(logits(source, scaled(source, scalings)), expected, atol=2e-5 * np.ptp(expected))


def test_progress_counts_every_linear_of_a_layer(tmp_path):
    source = source_of("llama", tmp_path)
    calls = []
    awq_scalings(source.spec, source, SEQUENCES, importance_blind, done=lambda: calls.append(1))
    assert len(calls) == 4 * source.spec.num_layers


@pytest.mark.parametrize("name", ["llama", "llama3-tied"])
def test_no_embedding_is_dequantised_and_one_weight_stays_mapped(name, tmp_path, monkeypatch):
    dropped = []
    monkeypatch.setattr(source_module, "drop_source", dropped.append)
    source = source_of(name, tmp_path)
    plain = dict(source)

    class Watched(Source):
        def __getitem__(self, name):
            assert name != "embed.weight"
            return super().__getitem__(name)

    watched = Watched(open_checkpoint(tmp_path), source.spec)
    dropped.clear()
    runs = (CalibrationRun(source.spec, weights, SEQUENCES).linears() for weights in (watched, plain))
    for ours, theirs in zip(*runs, strict=True):
        assert np.array_equal(ours.inputs, theirs.inputs)
        if "lm_head.weight" in ours.names:
            break
    matrices = [each for each in watched.stored.values() if len(each.shape) == 2]
    kept = [each for each in matrices if not any(each is other for other in dropped)]
    assert len(kept) <= 1 + (not source.spec.head.tied)  # the latest, and a head that nobody asked for
