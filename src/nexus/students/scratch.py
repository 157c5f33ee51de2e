"""A student with random weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from nexus.batch import Batch
from nexus.hub import quiet, read_config
from nexus.spec import Spec


class Scratch(Spec):
    """A student with random weights, shaped by a model configuration."""

    kind: Literal["scratch"] = "scratch"
    config: Path
    """A config.json or the folder it is in, relative to the recipe's own."""

    def build(
        self,
        teacher_model: PreTrainedModel | None,
        calibration: Iterable[Batch],
        folder: Path,
        seed: int,
    ) -> PreTrainedModel:
        """Draw the weights in float32; the seed decides them and nothing else's randomness.

        Raises:
            UsageError: There is no such configuration, or it is of no causal language model.
        """
        config = read_config(folder / self.config.expanduser())
        drawn: Any = AutoModelForCausalLM
        model: PreTrainedModel
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            model = drawn.from_config(config, dtype=torch.float32).eval()
        return model
