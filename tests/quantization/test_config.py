"""What config.json says is what is read again, and nothing else is read by mistake."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from nexus.errors import UsageError
from nexus.quantization.config import config_of, scheme_in
from nexus.quantization.scheme import Scheme, scheme_of

ALL = [
    scheme_of(8),
    scheme_of(8, symmetric=False),
    scheme_of(4, group_size=32),
    scheme_of(4, group_size="row", symmetric=False),
    scheme_of(3),
    scheme_of(scheme="int8_dynamic"),
]


@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_it_is_read_as_it_was_written(scheme: Scheme) -> None:
    again, kept = scheme_in(config_of(scheme, ("lm_head", "a.b")), "m")
    assert kept == {"lm_head", "a.b"}
    assert (again.scheme, again.group, again.symmetric) == (
        scheme.scheme, scheme.group, scheme.symmetric,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"quant_method": "gptq"},
        {"format": "float-quantized"},
        {"config_groups": {}},
        {"ignore": ["re:.*head"]},
        {"num_bits": 5},
        {"type": "float"},
        {"strategy": "tensor"},
        {"actorder": "group"},
    ],
    ids=str,
)
def test_another_form_is_refused_and_named(change: dict[str, Any]) -> None:
    config = copy.deepcopy(config_of(scheme_of(4), ()))
    for key, value in change.items():
        if key in config:
            config[key] = value
        else:
            config["config_groups"]["group_0"]["weights"][key] = value
    with pytest.raises(UsageError, match="Model m is quantised .* not read here"):
        scheme_in(config, "m")


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("", {"transform_config": {"config_groups": {"u": {"type": "hadamard"}}}}),
        ("", {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}),
        ("weights", {"symmetric": False}),
        ("weights", {"strategy": "group", "group_size": 32}),
        ("input_activations", {"num_bits": 4}),
        ("input_activations", {"symmetric": False}),
        ("input_activations", {"strategy": "tensor"}),
    ],
    ids=str,
)
def test_what_else_would_be_computed_is_not_left_out_in_silence(
    part: str, change: dict[str, Any]
) -> None:
    """To see it fail: in config.scheme_in, leave `_is_ours` and `_OTHERS` out."""
    config = copy.deepcopy(config_of(scheme_of(scheme="int8_dynamic"), ()))
    (config["config_groups"]["group_0"][part] if part else config).update(change)
    with pytest.raises(UsageError, match="not read here"):
        scheme_in(config, "m")


@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_compressed_tensors_understands_it(scheme: Scheme) -> None:
    library = pytest.importorskip("compressed_tensors.quantization")
    read = library.QuantizationConfig.model_validate(config_of(scheme, ("lm_head",)))
    weights = read.config_groups["group_0"].weights
    assert (weights.num_bits, weights.symmetric) == (scheme.bits, scheme.symmetric)
