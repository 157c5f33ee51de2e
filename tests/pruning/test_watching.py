"""What is watched is counted once, wherever rows begin, and nothing of it stays on the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.pruning.families import family_of
from nexus.pruning.sizes import Sizes
from nexus.pruning.watching import watch

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
