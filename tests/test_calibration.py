"""How strong inputs are: over real tokens, whatever the batches."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from nexus.calibration import calibrated, mean_squares
from nexus.data.loader import from_padded
from nexus.errors import UsageError
from nexus.quantization.quantize import plan
from nexus.quantization.scheme import scheme_of

TINY = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "tiny.py"))
ENCODER = {
    "vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "dim": 32, "hidden_dim": 32, "n_layers": 2, "n_heads": 2,
}  # fmt: skip
NAMES = ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")


def test_it_is_the_mean_square_of_what_enters_padding_apart() -> None:
    model = TINY["make_model"](layers=2, seed=1)
    layers = {name: model.get_submodule(name) for name in NAMES}
    ids = torch.randint(256, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    whole = from_padded(ids, attention_mask=mask, vocabulary=259)
    found = mean_squares(model, layers, [whole])
    again = mean_squares(model, layers, [whole.rows(0, 1), whole.rows(1, 3)])
    first = torch.cat([ids[0], ids[1, :5], ids[2]])
    exact = model.model.layers[0].input_layernorm(model.model.embed_tokens(first))
    assert found[NAMES[0]].shape == (32,) and found[NAMES[1]].shape == (64,)
    for name in NAMES:
        torch.testing.assert_close(found[name], again[name])
    torch.testing.assert_close(found[NAMES[0]], exact.square().mean(0))
    assert not model.model.layers[0].self_attn.q_proj._forward_pre_hooks


@pytest.mark.parametrize(
    ("name", "without"),
    [("bert", {"bert.pooler.dense"}), ("distilbert", {"pre_classifier"}), ("roberta", set())],
)
def test_what_no_token_enters_is_left_unweighted(name: str, without: set[str]) -> None:
    """To see it fail: in calibration.mean_squares, add whatever enters."""
    config = AutoConfig.for_model(name, **ENCODER)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    layers = plan(model, scheme_of(4, None, "row", True))[0]
    batch = from_padded(torch.arange(3, 15).view(2, 6), vocabulary=40)
    found = mean_squares(model, layers, [batch])
    left = {each for each in layers.keys() - found.keys() if "classifier" not in each}
    assert left == without - {"pre_classifier"} and any("attention" in each for each in found)
    assert calibrated(model, scheme_of(4, None, "row", True), [batch]).layers == tuple(layers)


def test_no_text_and_layers_that_never_run_are_refused() -> None:
    model = TINY["make_model"](layers=1, seed=1)
    with pytest.raises(UsageError, match="no text"):
        mean_squares(model, {"model.layers.0.mlp.up_proj": model.model.layers[0].mlp.up_proj}, [])
    batch = from_padded(torch.arange(8)[None], vocabulary=259)
    with pytest.raises(UsageError, match="never reached layer 'idle'"):
        mean_squares(model, {"idle": torch.nn.Linear(2, 2)}, [batch])
