"""Where each architecture keeps its neurons, heads and widths: one row per layout.

A row names the axes of every tensor. All else follows from it: how many parameters a smaller shape
has, which indices of which tensor go when a channel goes, and what a calibration pass looks at.

    hidden      channels of the residual stream
    neurons     of the feed-forward network, layer by layer
    heads       query heads, `head_dim` entries each · groups: key-value heads, likewise
    triples     query, key and value of one head after the other, head by head
    vocabulary  rows of embedding and head
    experts     of a mixture · expert_neurons: of every expert by itself
    -           an axis that nothing is taken from

Axes that lie one behind the other in one tensor are joined by `+`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel

from nexus.errors import UsageError

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """How the tensors of an architecture are laid out. Names in a layer are relative to it."""

    layers: str
    """The list of layers, by the end of its name."""
    inside: dict[str, Axes]
    """The tensors of a layer. A bias has the axis of its weight's output and is not named."""
    outside: dict[str, Axes]
    """All others, by the ends of their names."""
    neurons: str
    """The module whose input are the neurons; of a mixture, that of the experts."""
    heads: str
    """The module whose input are the heads' outputs."""
    rescaled: tuple[str, ...] = ()
    """Norms over `hidden`, whose weights make up for the narrower mean of squares."""
    width: str = "intermediate_size"
    """The configuration's name for the number of neurons."""
    expert_width: str = ""
    expert_count: str = ""
    transposed: bool = False
    """Weights lie input by output, as in GPT-2."""
    unit_offset: bool = False
    """Norms multiply by 1 + weight, as in Gemma."""
    heads_fill_hidden: bool = False
    """The heads together are as wide as the residual stream, whatever the configuration says."""
    follows_hidden: tuple[str, ...] = ()
    """Further names that the configuration has for the hidden size."""

    def axes(self, name: str) -> Axes:
        """The axes of a tensor, by its name in the model without the layer's number.

        Raises:
            KeyError: The row does not know the tensor.
        """
        rows = self.inside if f"{self.layers}." in name else self.outside
        stem = name.rpartition(f"{self.layers}.")[2]
        known = _longest_end(rows, stem)
        if known:
            return rows[known]
        owner, _, part = stem.rpartition(".")
        known = _longest_end(rows, owner)
        if part not in ("weight", "bias") or not known:
            raise KeyError(name)
        axes = rows[known]
        if part == "weight" or len(axes) == 1:
            return axes
        return (axes[-1],) if self.transposed and known in self._dense else (axes[0],)

    @property
    def _dense(self) -> set[str]:
        """Transposed modules: all with two axes but embeddings and the head."""
        return {name for name, axes in self.inside.items() if len(axes) == 2}

    @property
    def names(self) -> set[str]:
        """All axes that occur."""
        rows = (*self.inside.values(), *self.outside.values())
        return {atom for axes in rows for axis in axes for atom in axis.split("+")} - {"-"}


def _longest_end(rows: Mapping[str, Axes], name: str) -> str:
    ends = (row for row in rows if name == row or name.endswith(f".{row}"))
    return max(ends, key=len, default="")


_ATTENTION: dict[str, Axes] = {
    "self_attn.q_proj": ("heads", "hidden"),
    "self_attn.k_proj": ("groups", "hidden"),
    "self_attn.v_proj": ("groups", "hidden"),
    "self_attn.o_proj": ("hidden", "heads"),
}
_GATED: dict[str, Axes] = {
    "mlp.gate_proj": ("neurons", "hidden"),
    "mlp.up_proj": ("neurons", "hidden"),
    "mlp.down_proj": ("hidden", "neurons"),
}
_PRE_NORMS: dict[str, Axes] = {
    "input_layernorm": ("hidden",),
    "post_attention_layernorm": ("hidden",),
}
_ENDS: dict[str, Axes] = {
    "embed_tokens": ("vocabulary", "hidden"),
    "norm": ("hidden",),
    "lm_head": ("vocabulary", "hidden"),
}
_HEAD_NORMS: dict[str, Axes] = {"self_attn.q_norm": ("-",), "self_attn.k_norm": ("-",)}

LLAMA = Family(
    layers="model.layers",
    inside=_ATTENTION | _GATED | _PRE_NORMS,
    outside=_ENDS,
    neurons="mlp.down_proj",
    heads="self_attn.o_proj",
    rescaled=("input_layernorm", "post_attention_layernorm", "norm"),
)
QWEN3 = replace(LLAMA, inside=LLAMA.inside | _HEAD_NORMS)
PHI3 = replace(
    LLAMA,
    inside={
        "self_attn.qkv_proj": ("heads+groups+groups", "hidden"),
        "self_attn.o_proj": ("hidden", "heads"),
        "mlp.gate_up_proj": ("neurons+neurons", "hidden"),
        "mlp.down_proj": ("hidden", "neurons"),
    }
    | _PRE_NORMS,
)
GEMMA2 = replace(
    LLAMA,
    inside=LLAMA.inside
    | {"pre_feedforward_layernorm": ("hidden",), "post_feedforward_layernorm": ("hidden",)},
    # The embedding is multiplied by the root of the hidden size. A narrower stream is therefore
    # smaller as a whole if what the norms after attention and network add is left as it is.
    rescaled=("input_layernorm", "pre_feedforward_layernorm", "norm"),
    unit_offset=True,
)
GEMMA3 = replace(GEMMA2, inside=GEMMA2.inside | _HEAD_NORMS)
OLMO2 = replace(
    LLAMA,
    inside=_ATTENTION
    | _GATED
    | {
        "self_attn.q_norm": ("heads",),
        "self_attn.k_norm": ("groups",),
        "post_attention_layernorm": ("hidden",),
        "post_feedforward_layernorm": ("hidden",),
    },
    rescaled=("post_attention_layernorm", "post_feedforward_layernorm", "norm"),
)
_EXPERTS: dict[str, Axes] = {
    "mlp.experts.gate_up_proj": ("experts", "expert_neurons+expert_neurons", "hidden"),
    "mlp.experts.down_proj": ("experts", "hidden", "expert_neurons"),
    "mlp.gate": ("experts", "hidden"),
}
MIXTRAL = replace(
    LLAMA,
    inside=_ATTENTION | _EXPERTS | _PRE_NORMS,
    neurons="mlp.experts",
    expert_width="intermediate_size",
    expert_count="num_local_experts",
)
QWEN3_MOE = replace(
    LLAMA,
    inside=LLAMA.inside | _HEAD_NORMS | _EXPERTS,
    neurons="mlp.experts",
    expert_width="moe_intermediate_size",
    expert_count="num_experts",
)
GPT2 = Family(
    layers="transformer.h",
    inside={
        "ln_1": ("hidden",),
        "attn.c_attn": ("hidden", "heads+heads+heads"),
        "attn.c_proj": ("heads", "hidden"),
        "ln_2": ("hidden",),
        "mlp.c_fc": ("hidden", "neurons"),
        "mlp.c_proj": ("neurons", "hidden"),
    },
    outside={
        "wte": ("vocabulary", "hidden"),
        "wpe": ("-", "hidden"),
        "ln_f": ("hidden",),
        "lm_head": ("vocabulary", "hidden"),
    },
    neurons="mlp.c_proj",
    heads="attn.c_proj",
    rescaled=("ln_1", "ln_2", "ln_f"),
    width="n_inner",
    transposed=True,
    heads_fill_hidden=True,
)
GPT_NEOX = Family(
    layers="gpt_neox.layers",
    inside={
        "attention.query_key_value": ("triples", "hidden"),
        "attention.dense": ("hidden", "heads"),
        "mlp.dense_h_to_4h": ("neurons", "hidden"),
        "mlp.dense_4h_to_h": ("hidden", "neurons"),
    }
    | _PRE_NORMS,
    outside={
        "embed_in": ("vocabulary", "hidden"),
        "final_layer_norm": ("hidden",),
        "lm_head": ("vocabulary", "hidden"),
    },
    neurons="mlp.dense_4h_to_h",
    heads="attention.dense",
    rescaled=("input_layernorm", "post_attention_layernorm", "final_layer_norm"),
    heads_fill_hidden=True,
)
OPT = Family(
    layers="decoder.layers",
    inside={
        "self_attn.q_proj": ("heads", "hidden"),
        "self_attn.k_proj": ("heads", "hidden"),
        "self_attn.v_proj": ("heads", "hidden"),
        "self_attn.out_proj": ("hidden", "heads"),
        "self_attn_layer_norm": ("hidden",),
        "fc1": ("neurons", "hidden"),
        "fc2": ("hidden", "neurons"),
        "final_layer_norm": ("hidden",),
    },
    outside=_ENDS | {"embed_positions": ("-", "hidden"), "final_layer_norm": ("hidden",)},
    neurons="fc2",
    heads="self_attn.out_proj",
    rescaled=("self_attn_layer_norm", "final_layer_norm"),
    width="ffn_dim",
    heads_fill_hidden=True,
    follows_hidden=("word_embed_proj_dim",),
)
BERT = Family(
    layers="encoder.layer",
    inside={
        "attention.self.query": ("heads", "hidden"),
        "attention.self.key": ("heads", "hidden"),
        "attention.self.value": ("heads", "hidden"),
        "attention.output.dense": ("hidden", "heads"),
        "attention.output.LayerNorm": ("hidden",),
        "intermediate.dense": ("neurons", "hidden"),
        "output.dense": ("hidden", "neurons"),
        "output.LayerNorm": ("hidden",),
    },
    outside={
        "word_embeddings": ("vocabulary", "hidden"),
        "position_embeddings": ("-", "hidden"),
        "token_type_embeddings": ("-", "hidden"),
        "embeddings.LayerNorm": ("hidden",),
        "predictions.transform.dense": ("hidden", "hidden"),
        "predictions.transform.LayerNorm": ("hidden",),
        "predictions.decoder": ("vocabulary", "hidden"),
        "predictions.bias": ("vocabulary",),
        "pooler.dense": ("hidden", "hidden"),
        "classifier": ("-", "hidden"),
        "qa_outputs": ("-", "hidden"),
        "lm_head.dense": ("hidden", "hidden"),
        "lm_head.layer_norm": ("hidden",),
        "lm_head.decoder": ("vocabulary", "hidden"),
        "lm_head.bias": ("vocabulary",),
        "classifier.dense": ("hidden", "hidden"),
        "classifier.out_proj": ("-", "hidden"),
    },
    neurons="output.dense",
    heads="attention.output.dense",
    rescaled=("LayerNorm", "layer_norm"),
    heads_fill_hidden=True,
)
DISTILBERT = Family(
    layers="transformer.layer",
    inside={
        "attention.q_lin": ("heads", "hidden"),
        "attention.k_lin": ("heads", "hidden"),
        "attention.v_lin": ("heads", "hidden"),
        "attention.out_lin": ("hidden", "heads"),
        "sa_layer_norm": ("hidden",),
        "ffn.lin1": ("neurons", "hidden"),
        "ffn.lin2": ("hidden", "neurons"),
        "output_layer_norm": ("hidden",),
    },
    outside={
        "word_embeddings": ("vocabulary", "hidden"),
        "position_embeddings": ("-", "hidden"),
        "embeddings.LayerNorm": ("hidden",),
        "vocab_transform": ("hidden", "hidden"),
        "vocab_layer_norm": ("hidden",),
        "vocab_projector": ("vocabulary", "hidden"),
        "pre_classifier": ("hidden", "hidden"),
        "classifier": ("-", "hidden"),
        "qa_outputs": ("-", "hidden"),
    },
    neurons="ffn.lin2",
    heads="attention.out_lin",
    rescaled=("LayerNorm", "sa_layer_norm", "output_layer_norm", "vocab_layer_norm"),
    width="hidden_dim",
    heads_fill_hidden=True,
)

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "granite": LLAMA,
    "qwen2": LLAMA,
    "qwen3": QWEN3,
    "phi3": PHI3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "olmo2": OLMO2,
    "mixtral": MIXTRAL,
    "qwen3_moe": QWEN3_MOE,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
    "opt": OPT,
    "bert": BERT,
    "roberta": BERT,
    "distilbert": DISTILBERT,
}
"""By `model_type`. A new architecture is one more row."""


def family_of(model: PreTrainedModel) -> Family:
    """The row of a model's architecture, which must describe every tensor of it.

    Raises:
        UsageError: There is no row, or it leaves something out; both are named. Or the model is in
            few bits.
    """
    kind = model.config.get_text_config().model_type
    family = FAMILIES.get(kind)
    if family is None:
        raise UsageError(
            f"Nexus does not know where '{kind}' keeps its neurons and heads. Known are "
            f"{', '.join(FAMILIES)}; a row for it in nexus/pruning/families.py would name the "
            f"axes of {', '.join(_kinds(model))}"
        )
    unknown = [name for name in _kinds(model) if not _describes(family, name)]
    if unknown and getattr(model.config, "quantization_config", None) is not None:
        raise UsageError(
            f"{type(model).__name__} is quantised: cut the model that it was made of, and quantise "
            "what comes out"
        )
    if unknown:
        raise UsageError(
            f"This '{kind}' has tensors that Nexus does not know the axes of: "
            f"{', '.join(unknown)}. Choose a model without them"
        )
    return family


def layers_of(model: PreTrainedModel, family: Family) -> tuple[str, nn.ModuleList]:
    """The name and the list of a model's layers."""
    for name, part in model.named_modules():
        if isinstance(part, nn.ModuleList) and f".{name}".endswith(f".{family.layers}"):
            return name, part
    raise UsageError(f"{type(model).__name__} has no list of layers '{family.layers}'")


def _kinds(model: PreTrainedModel) -> list[str]:
    """The names of all tensors, every layer's once."""
    names = dict.fromkeys(
        ".".join("N" if part.isdecimal() else part for part in name.split("."))
        for name in model.state_dict()
    )
    return list(names)


def _describes(family: Family, name: str) -> bool:
    try:
        family.axes(name.replace(".N.", "."))
    except KeyError:
        return False
    return True
