"""Whether a model's head is its embedding: one answer in memory, configuration and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.core_model_loading import revert_weight_conversion

from nexus.errors import NexusError
from nexus.inspection.safetensors_header import read_header


def is_tied(model: Any) -> bool:
    """Whether head and embedding are one tensor."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight.data_ptr() == embedding.weight.data_ptr()


def check_tie(model: Any) -> None:
    """Compare a model with its configuration.

    Raises:
        NexusError: They disagree, so that what is saved would be loaded as something else.
    """
    says = bool(model.config.get_text_config().tie_word_embeddings)
    if says != is_tied(model):
        tied, untied = "is the embedding", "is a tensor of its own"
        raise NexusError(
            f"The head of {type(model).__name__} {tied if not says else untied}, but its "
            f"configuration says tie_word_embeddings: {str(says).lower()}. Loaded again it would "
            "be another model. Call tie_weights(), or correct the configuration."
        )


def check_saved_tie(model: Any, folder: Path) -> None:
    """Compare a model with the files it was saved in: a tied head is stored once, another twice.

    Raises:
        NexusError: They disagree, or the configuration does.
    """
    if model.get_output_embeddings() is None:  # of an encoder over classes: nothing can be tied
        return
    check_tie(model)
    stored = {name for path in sorted(folder.glob("*.safetensors")) for name in read_header(path)}
    weights = dict(model.named_parameters(remove_duplicate=False))
    ends = {model.get_output_embeddings().weight.data_ptr()}
    ends.add(model.get_input_embeddings().weight.data_ptr())
    found = {name: weight for name, weight in weights.items() if weight.data_ptr() in ends}
    names = set(revert_weight_conversion(model, found))  # files may hold them under older names
    if len(names & stored) != len(ends):
        raise NexusError(
            f"{folder} stores {len(names & stored)} of {', '.join(sorted(names))}, where "
            f"{len(ends)} belong: its head would be lost. Report this as a bug of the versions "
            "installed (nexus, transformers)."
        )
