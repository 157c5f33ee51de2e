"""How strong inputs are: over real tokens, whatever the batches."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from nexus.calibration import mean_squares
from nexus.data.loader import from_padded
from nexus.errors import UsageError

TINY = runpy.run_path(str(Path(__file__).parent.parent / "examples" / "tiny.py"))
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


def test_no_text_and_layers_that_never_run_are_refused() -> None:
    model = TINY["make_model"](layers=1, seed=1)
    with pytest.raises(UsageError, match="no text"):
        mean_squares(model, {"model.layers.0.mlp.up_proj": model.model.layers[0].mlp.up_proj}, [])
    batch = from_padded(torch.arange(8)[None], vocabulary=259)
    with pytest.raises(UsageError, match="never reached layer 'idle'"):
        mean_squares(model, {"idle": torch.nn.Linear(2, 2)}, [batch])
