"""GGUF headers: what the library writes is read, what is spoilt is refused, nothing hangs."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.errors import UsageError
from nexus.inspection.gguf_header import declared
from nexus.inspection.tensors import Tensors


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(7)
    writer.add_vocab_size(300)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "bc", "ü" * 9])
    writer.add_token_scores([1.0, 2.0, 3.0])
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("w", np.zeros((4, 32), np.float32))
    writer.add_tensor("v", np.zeros(64, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_sound_file_is_summed_up(sound: Path) -> None:
    tensors, numbers = declared(sound)
    assert tensors == Tensors(2, 4 * 32 + 64)
    assert numbers["llama.block_count"] == 7
    assert numbers["llama.vocab_size"] == 300


@given(at=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.integers(0, 500))
def test_any_damage_is_read_within_bounds_or_refused(
    sound: Path, at: int, value: int, cut: int
) -> None:
    content = bytearray(sound.read_bytes())
    content[at % len(content)] = value
    path = sound.with_name("spoilt.gguf")
    path.write_bytes(bytes(content[: len(content) - cut]))
    try:
        tensors, _ = declared(path)
    except UsageError as refusal:
        assert str(path) in str(refusal)
    else:
        assert tensors.count <= 2


def test_a_tensor_must_lie_within_the_file(sound: Path) -> None:
    path = sound.with_name("short.gguf")
    path.write_bytes(sound.read_bytes()[:-65])
    with pytest.raises(UsageError, match=r"short\.gguf has tensor 'v' of 128 bytes"):
        declared(path)
