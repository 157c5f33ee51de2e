"""Which layers a model can do without, and the model made of those that are left."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, linalg, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.kernels.decoder import decoder_layers, evaluated
from nexus.pruning.activations import reader

_DENSE_PREFIXES = (
    "first_k_dense_replace",
    "num_dense_layers",
    "max_window_layers",
)
"""Settings that say how many layers, from the first on, are of another kind than the rest."""

_LAYER_LISTS = ("mlp_only_layers", "moe_layers")
"""Settings that list the layers of a kind by their numbers."""

_NOT_BY_LAYER = ("architectures", "eos_token_id")
"""Settings whose lists have nothing to do with layers, however long they happen to be."""

_SMALLEST = 1e-16
"""The product of two norms that a cosine divides by at least."""


def evenly_spaced(count: int, total: int) -> tuple[int, ...]:
    """`count` of the layers 0 to `total` − 1, the first and the last included."""
    if count == 1:
        return (0,)
    gaps = count - 1
    return tuple((2 * i * (total - 1) + gaps) // (2 * gaps) for i in range(count))


@torch.no_grad()
def block_influence(model: PreTrainedModel, calibration: Iterable[Batch]) -> Float[Tensor, " n"]:
    """How much each layer changes its input: 1 − cos(input, output), averaged over real tokens.

    The mean of ShortGPT (arXiv:2403.03853), in fp32. Padding never counts, and nothing but a sum a
    layer is held.

    Raises:
        UsageError: The calibration data holds no token.
    """
    layers = decoder_layers(model)
    read = reader(model)
    sums = torch.zeros(len(layers), dtype=torch.float64)
    counts = torch.zeros(len(layers), dtype=torch.int64)
    tokens = 0
    inside: Tensor

    def measure(number: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        sums[number] += turned(before, after, inside).cpu()
        counts[number] += inside.sum().cpu()

    hooks = [
        layer.register_forward_hook(
            lambda _, args, kwargs, output, number=number: measure(number, args, kwargs, output),
            with_kwargs=True,
        )
        for number, layer in enumerate(layers)
    ]
    try:
        with evaluated(model):
            for batch in calibration:
                inside = (batch.documents != PADDING).to(model.device)
                tokens += int(inside.sum())
                read(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if tokens == 0:
        raise UsageError(
            "block_influence measures layers on text, but there is none. Add text, or, for a "
            "student of kind 'layers', pick: evenly_spaced"
        )
    if bool((counts != tokens).any()):
        raise UsageError(
            f"block_influence could not watch every layer of {type(model).__name__}. Make the "
            "student before the teacher's layers are compiled, or, for one of kind 'layers', pick: "
            "evenly_spaced"
        )
    return (sums / tokens).float()


def turned(
    before: Float[Tensor, "rows length hidden"],
    after: Float[Tensor, "rows length hidden"],
    inside: Bool[Tensor, "rows length"],
) -> Float[Tensor, ""]:
    """Σ 1 − cos(before, after) over the tokens inside, in fp32, a row at a time: copies stay small.

    What is outside may be anything, and counts for nothing.
    """
    total = torch.zeros((), dtype=torch.float64, device=before.device)
    for entered, left, real in zip(before, after, inside, strict=True):
        entered, left = entered.float(), left.float()
        sizes = linalg.vector_norm(entered, dim=-1) * linalg.vector_norm(left, dim=-1)
        cosine = linalg.vecdot(entered, left) / sizes.clamp_min(_SMALLEST)
        total += (1 - cosine).masked_fill(~real, 0).sum(dtype=torch.float64)
    return total


def keep_layers(teacher: PreTrainedModel, kept: tuple[int, ...]) -> PreTrainedModel:
    """A float32 model of the teacher's class with only the layers `kept`, its weights its own.

    Raises:
        UsageError: The layers of this architecture depend on their number in the model in a way
            that a smaller configuration cannot express.
    """
    layers = decoder_layers(teacher)
    config = smaller_config(teacher.config, kept, len(layers))
    with no_init_weights():
        student: Any = type(teacher)(config)
    student = student.float()
    student.tie_weights()
    names = {id(part): name for name, part in teacher.named_modules()}
    _copy_weights(teacher, student, f"{names[id(layers)]}.", kept)
    for new, old in enumerate(kept):
        require_same_behaviour(teacher, layers[old], decoder_layers(student)[new], (old, new))
    student.generation_config = copy.deepcopy(teacher.generation_config)
    whole: PreTrainedModel = student.eval()
    return whole


def smaller_config(config: PreTrainedConfig, kept: tuple[int, ...], total: int) -> PreTrainedConfig:
    """A configuration with everything it says layer by layer cut down to the layers kept."""
    smaller = copy.deepcopy(config)
    text = smaller.get_text_config()
    changes: dict[str, Any] = {}
    for name, value in vars(text).items():
        if name.startswith("_") or name in _NOT_BY_LAYER:
            continue
        if name in _LAYER_LISTS and value is not None:
            changes[name] = [new for new, old in enumerate(kept) if old in value]
        elif name in _DENSE_PREFIXES and value is not None:
            changes[name] = sum(old < value for old in kept)
        elif isinstance(value, (list, tuple)) and len(value) == total:
            changes[name] = [value[old] for old in kept]
    text.num_hidden_layers = len(kept)
    for name, value in changes.items():
        setattr(text, name, value)
    smaller.dtype = text.dtype = torch.float32
    return smaller


def _copy_weights(
    teacher: PreTrainedModel, student: PreTrainedModel, prefix: str, kept: tuple[int, ...]
) -> None:
    """Copy every tensor, the layers' from the layers kept."""
    values = teacher.state_dict()
    renamed: dict[str, Tensor] = {}
    for name, place in student.state_dict().items():
        source = name
        if name.startswith(prefix):
            number, _, rest = name.removeprefix(prefix).partition(".")
            source = f"{prefix}{kept[int(number)]}.{rest}"
        if source not in values or values[source].shape != place.shape:
            raise _inexpressible(teacher, f"'{source}' of the teacher does not fit '{name}'")
        renamed[name] = values[source]
    student.load_state_dict(renamed)


def require_same_behaviour(
    teacher: PreTrainedModel, old: nn.Module, new: nn.Module, numbers: tuple[int, int]
) -> None:
    """Compare what a layer was told on creation: window, rotary or not, scale of attention, …

    Only its number may differ, from the first of `numbers` to the second.
    """
    for (name, before), (_, after) in zip(old.named_modules(), new.named_modules(), strict=True):
        theirs, ours = _settings(before), _settings(after)
        for setting in theirs.keys() | ours.keys():
            values = (theirs.get(setting), ours.get(setting))
            if values[0] != values[1] and values != numbers:
                raise _inexpressible(
                    teacher,
                    f"'{name}.{setting}' would become {values[1]} instead of {values[0]}",
                )


def _settings(part: nn.Module) -> dict[str, Any]:
    ignored = ("training", "gradient_checkpointing")
    return {
        name: value
        for name, value in vars(part).items()
        if isinstance(value, (bool, int, float, str))
        and not name.startswith("_")
        and name not in ignored
    }


def _inexpressible(teacher: PreTrainedModel, reason: str) -> UsageError:
    return UsageError(
        f"The layers of {type(teacher).__name__} depend on their number: {reason}. "
        "Choose other layers (another number of them, or depth told apart in another way), or a "
        "student of kind 'pretrained' or 'scratch'."
    )
