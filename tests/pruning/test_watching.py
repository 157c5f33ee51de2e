"""What is watched is counted once, wherever rows begin, and nothing of it stays on the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.pruning.families import family_of
from nexus.pruning.importance import measure
from nexus.pruning.sizes import Sizes
from nexus.pruning.watching import aggregates_named, watch

Rows = Callable[..., Batch]
Small = Callable[..., PreTrainedModel]


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_hooks_go_and_training_comes_back(small: Small, rows: Rows) -> None:
    model = small().train()
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    _, tokens = watch(model, family, sizes, [rows(6, 3)], ("mean", "l2"), True)
    assert tokens == 9 and hooks(model) == 0 and model.training

    def broken() -> object:
        yield rows(5)
        raise RuntimeError("the data ended")

    with pytest.raises(RuntimeError, match="the data ended"):
        watch(model, family, sizes, broken(), ("mean", "l2"), True)
    assert hooks(model) == 0 and model.training


def test_a_row_of_nothing_is_no_row(small: Small, rows: Rows) -> None:
    """Means over rows do not fall because a row is empty."""
    model = small()
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    batch = rows(7, 0)
    for aggregate in (("mean", "mean"), ("l2", "variance")):
        with_empty, _ = watch(model, family, sizes, [batch], aggregate, True)
        alone, _ = watch(model, family, sizes, [batch.rows(0, 1)], aggregate, True)
        torch.testing.assert_close(with_empty["neurons"][0], alone["neurons"][0])
        torch.testing.assert_close(with_empty["hidden"], alone["hidden"])


def test_channels_are_summed_over_the_norms(small: Small, rows: Rows) -> None:
    model, batch = small(), rows(6)
    family = family_of(model)
    seen: list[torch.Tensor] = []
    for name, part in model.named_modules():
        if name.endswith("norm"):  # two in each of three layers, and the last
            part.register_forward_hook(lambda _, __, output: seen.append(output[0].abs().mean(0)))
    found, _ = watch(model, family, Sizes.of(model.config, family), [batch], ("mean", "l2"), True)
    assert len(seen) == 7
    torch.testing.assert_close(found["hidden"], torch.stack(seen).sum(0))


def test_padding_of_which_nothing_is_left_in_the_stream_counts_nothing(
    small: Small, rows: Rows
) -> None:
    """The embedding of padding is zero where a model was built so.

    To see it fail: in watching._layer, leave `masked_fill` out, and LEAST_SIZE = 1e-38.
    """
    model: Any = small()
    family = family_of(model)
    sizes = Sizes.of(model.config, family)
    batch = rows(7, 4)
    for layer in model.model.layers:  # of which nothing reaches the stream, whatever it is given
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.zeros_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        model.get_input_embeddings().weight[batch.input_ids[batch.documents < 0]] = 0
    padded, _ = watch(model, family, sizes, [batch], ("mean", "l2"), True)
    alone = [batch.rows(0, 1), rows(4)]
    alone[1] = replace(alone[1], input_ids=batch.input_ids[1:, :4])
    apart, _ = watch(model, family, sizes, alone, ("mean", "l2"), True)
    for axis in ("neurons", "heads", "groups"):
        for number, value in apart[axis].items():
            torch.testing.assert_close(padded[axis][number], value)


def test_what_is_not_finite_is_no_importance(small: Small, rows: Rows) -> None:
    model: Any = small()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(UsageError, match="activation is not finite"):
        measure(model, [rows(6)])


def test_aggregates_are_two_that_are_known() -> None:
    assert aggregates_named(["l2", "variance"]) == ("l2", "variance")
    with pytest.raises(UsageError, match="'foo' is unknown. Known: mean, l2, variance"):
        aggregates_named(["mean", "foo"])
    with pytest.raises(UsageError, match="is not two"):
        aggregates_named(["mean"])
