"""What config.json says of a quantised model: compressed-tensors' words, which vLLM reads too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nexus.errors import UsageError
from nexus.quantization.scheme import SCHEMES, Scheme

METHOD = "compressed-tensors"

_OTHERS = ("transform_config", "kv_cache_scheme", "moe_sparsity_config")
"""What changes what a model computes besides the rounding of its linear layers."""


def config_of(scheme: Scheme, kept: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config` of a model.

    Args:
        scheme: how its linear layers are stored.
        kept: linear layers that are not.
    """
    return {
        "quant_method": METHOD,
        "format": "int-quantized" if scheme.dynamic else "pack-quantized",
        "quantization_status": "compressed",
        "ignore": list(kept),
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": _arguments(scheme.bits, scheme.symmetric, scheme.group),
                "input_activations": (
                    _arguments(8, True, None) | {"strategy": "token", "dynamic": True}
                    if scheme.dynamic
                    else None
                ),
                "output_activations": None,
            }
        },
    }


def scheme_in(config: Mapping[str, Any], where: str) -> tuple[Scheme, frozenset[str]]:
    """The scheme and the linear layers that are kept, of a `quantization_config`.

    Raises:
        UsageError: It is of a form that is not among the schemes.
    """
    groups = config.get("config_groups") or {}
    if config.get("quant_method") != METHOD or len(groups) != 1:
        raise _foreign(config, where)
    (group,) = groups.values()
    weights, entering = group.get("weights") or {}, group.get("input_activations")
    bits: Any = weights.get("num_bits")
    kind = weights.get("strategy")
    dynamic = entering is not None
    known = (
        group.get("targets") == ["Linear"]
        and bits in SCHEMES
        and weights.get("type") == "int"
        and kind in ("group", "channel")
        and not weights.get("actorder")
        and (not dynamic or _is_ours(weights, entering))
        and not group.get("output_activations")
        and group.get("format") in (None, config.get("format"))
        and not any(config.get(other) for other in _OTHERS)
        and config.get("format") == ("int-quantized" if dynamic else "pack-quantized")
        and all(not str(name).startswith("re:") for name in config.get("ignore") or ())
    )
    if not known:
        raise _foreign(config, where)
    size = weights.get("group_size") if kind == "group" else "row"
    symmetric = bool(weights.get("symmetric", True))
    if dynamic:
        return Scheme(scheme="int8_dynamic"), frozenset(config.get("ignore") or ())
    found = {"scheme": SCHEMES[bits], "group_size": size, "symmetric": symmetric}
    return Scheme.parse(found, where), frozenset(config.get("ignore") or ())


def _is_ours(weights: Mapping[str, Any], entering: Mapping[str, Any]) -> bool:
    """Whether rows of weights and tokens that enter are rounded to eight bits around zero."""
    (ours,) = config_of(Scheme(scheme="int8_dynamic"), ())["config_groups"].values()
    return all(
        given.get(name) == wanted[name]
        for given, wanted in ((weights, ours["weights"]), (entering, ours["input_activations"]))
        for name in ("num_bits", "type", "symmetric", "strategy", "dynamic")
    )


def _arguments(bits: int, symmetric: bool, group: int | None) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group is None else "group",
        "group_size": group,
        "dynamic": False,
        "observer": "minmax",
    }


def _foreign(config: Mapping[str, Any], where: str) -> UsageError:
    return UsageError(
        f"Model {where} is quantised ({config.get('quant_method')}, "
        f"{config.get('format', 'of its own format')}) in a way that is not read here. Name the "
        "model that it was made of, and quantise that with nexus quantize"
    )
