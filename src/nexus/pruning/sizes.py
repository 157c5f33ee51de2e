"""Sizes: how long each axis of a model is, and how many parameters that makes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import prod

from transformers import PreTrainedConfig, PreTrainedModel

from nexus.errors import UsageError
from nexus.pruning.families import Family, layers_of


@dataclass(frozen=True)
class Sizes:
    """How long each axis is. `head_dim` is how many entries a head or a group has."""

    layers: int
    hidden: int
    neurons: int
    heads: int
    groups: int
    head_dim: int
    vocabulary: int
    experts: int = 0
    expert_neurons: int = 0

    @classmethod
    def of(cls, config: PreTrainedConfig, family: Family) -> Sizes:
        """As a configuration has them."""
        text = config.get_text_config()

        def number(name: str, default: int = 0) -> int:
            return int(getattr(text, name, None) or default)

        hidden, heads = number("hidden_size"), number("num_attention_heads")
        own = 0 if family.heads_fill_hidden else number("head_dim")
        width = number(family.width, 4 * hidden if family.width == "n_inner" else 0)
        return cls(
            layers=number("num_hidden_layers"),
            hidden=hidden,
            neurons=width,
            heads=heads,
            groups=number("num_key_value_heads", heads),
            head_dim=own or hidden // heads,
            vocabulary=number("vocab_size"),
            experts=number(family.expert_count) if family.expert_count else 0,
            expert_neurons=number(family.expert_width) if family.expert_width else 0,
        )

    def length(self, axis: str) -> int:
        """Of an axis, or of several that are joined."""
        return sum(self._atom(atom) for atom in axis.split("+"))

    def _atom(self, atom: str) -> int:
        match atom:
            case "heads" | "groups":
                return self.head_dim * (self.heads if atom == "heads" else self.groups)
            case "triples":
                return 3 * self.head_dim * self.heads
            case "hidden":
                return self.hidden
            case "neurons":
                return self.neurons
            case "vocabulary":
                return self.vocabulary
            case "experts":
                return self.experts
            case "expert_neurons":
                return self.expert_neurons
            case _:
                raise KeyError(atom)

    def apply(self, config: PreTrainedConfig, family: Family) -> PreTrainedConfig:
        """A copy of a configuration with these sizes, all but the number of layers.

        Raises:
            UsageError: The architecture's own configuration refuses them.
        """
        changed = copy.deepcopy(config)
        text, before = changed.get_text_config(), Sizes.of(config, family)
        names = {
            "hidden_size": (before.hidden, self.hidden),
            "num_attention_heads": (before.heads, self.heads),
            "num_key_value_heads": (before.groups, self.groups),
            family.width: (before.neurons, self.neurons),
            "vocab_size": (before.vocabulary, self.vocabulary),
            family.expert_count: (before.experts, self.experts),
            family.expert_width: (before.expert_neurons, self.expert_neurons),
            **dict.fromkeys(family.follows_hidden, (before.hidden, self.hidden)),
        }
        for name, (was, size) in names.items():
            if not name or not hasattr(text, name):
                continue
            follows = getattr(text, name) is None and self.hidden != before.hidden
            if size != was or follows:
                setattr(text, name, size)
        narrower = (self.hidden, self.heads) != (before.hidden, before.heads)
        if narrower and not family.heads_fill_hidden:
            text.head_dim = self.head_dim  # else it would follow from the two
        try:
            changed.validate()
        except Exception as error:  # whatever kinds of refusal an architecture knows
            raise UsageError(
                f"{text.model_type} cannot have this shape: {_first_line(error)}"
            ) from None
        return changed


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def parameters(
    model: PreTrainedModel, family: Family, sizes: Sizes, *, embeddings: bool = True
) -> int:
    """How many parameters the model would have at other sizes, tied tensors once.

    Args:
        model: in memory or on the meta device.
        family: its row.
        sizes: the other sizes.
        embeddings: whether to count the embedding of tokens and the head.
    """
    now = Sizes.of(model.config, family)
    prefix, _ = layers_of(model, family)
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    tables = (model.get_input_embeddings(), output)
    left_out = set() if embeddings else {id(table.weight) for table in tables if table is not None}
    total = 0
    for name, parameter in model.named_parameters():
        if id(parameter) in left_out:
            continue
        in_layer = name.startswith(f"{prefix}.")
        axes = family.axes(without_number(name, prefix))
        count = prod(
            length if axis == "-" else sizes.length(axis)
            for axis, length in zip(axes, parameter.shape, strict=True)
        )
        total += count * sizes.layers if in_layer and _number(name, prefix) == 0 else 0
        total += 0 if in_layer else count
    return total if now.layers else 0


def without_number(name: str, prefix: str) -> str:
    """A tensor's name without the number of its layer."""
    if not name.startswith(f"{prefix}."):
        return name
    return f"{prefix}.{name.removeprefix(f'{prefix}.').partition('.')[2]}"


def _number(name: str, prefix: str) -> int:
    return int(name.removeprefix(f"{prefix}.").partition(".")[0])
