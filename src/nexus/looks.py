"""Looks at held-out text while a stage trains, which change nothing of what it becomes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch

from nexus.errors import NexusError
from nexus.evaluation.fidelity import measure
from nexus.scene import Scene
from nexus.training.module import DistillationModule
from nexus.training.settings import TrainSpec
from nexus.voice import Say

LOOKS = 8
TOKENS = 4096
"""How much held-out text a look is at, at most."""

_AFFORDED = 12
"""A look at a token costs about 0.6 of a training step's, so that a twelfth of them is 5 %."""

Look = Callable[[int], dict[str, float]]


def looks(scene: Scene, module: DistillationModule, settings: TrainSpec, say: Say) -> Look:
    """What `Stage.evaluate_maybe` is for a run: forward KL, agreement and loss on held-out rows.

    Only the first process looks; no other waits for it but at the next step. Where weights are
    spread over the processes there are no looks, which is said.
    """
    every, rows = plan(settings, scene.recipe.data.sequence_length)
    if not (every and scene.recipe.data.heldout and scene.parallel.is_main):
        return lambda step: {}
    if settings.parallel == "fsdp2":
        say("with fsdp2 nothing is measured on held-out text before the end of training")
        return lambda step: {}
    batches = list(islice(scene.batches.heldout(rows=1), rows))
    autocast = None if settings.precision == "fp32" else torch.bfloat16

    def look(step: int) -> dict[str, float]:
        if step % every:
            return {}
        try:
            # What was compiled for training would be compiled anew without gradient.
            with torch.compiler.set_stance("force_eager"):
                found = measure(module.trunk, scene.teacher, batches, autocast=autocast)
        except NexusError as error:
            say(f"no held-out point at step {step}: {error}")
            return {}
        sums = found.documents
        columns = {"kl": "forward_kl", "agreement": "agreement", "nll": "student_nll"}
        return {f"heldout_{n}": float(sums[c].sum() / found.tokens) for n, c in columns.items()}

    return look


def plan(settings: TrainSpec, length: int) -> tuple[int, int]:
    """Steps between looks (0: none), and how many rows of `length` tokens each is at."""
    most = max(1, TOKENS // length)
    if settings.heldout_every != "auto":
        return settings.heldout_every, most
    affordable = settings.steps * settings.tokens_per_step // _AFFORDED // length
    count = min(LOOKS, settings.steps, affordable)
    if not count:
        return 0, 0
    return -(-settings.steps // count), min(most, affordable // count)
