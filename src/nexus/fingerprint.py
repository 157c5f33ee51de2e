"""Short names for long contents: two that are equal have one fingerprint, any others do not.

SHA-256 throughout, in threads: half a gigabyte of weights takes about a second.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nexus.batch import Batch
from nexus.hub import ModelSource
from nexus.tokenizers import PROBES

CHUNK_BYTES = 64 * 2**20
_BLOCK_BYTES = 2**20

_OF_A_MODEL = ("*.safetensors", "*.safetensors.index.json", "config.json", "*.py")

_NOT_COMPUTED_WITH = (
    "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache",
)  # fmt: skip
"""What a configuration says that changes no logits, or that weights say themselves."""

Item = TypeVar("Item")


def of_source(source: ModelSource, folder: Path) -> str | None:
    """That of the files a model is loaded from; nothing if they are not on this machine yet.

    Args:
        source: names the model.
        folder: what relative paths are relative to.
    """
    place = folder / Path(source.model).expanduser()
    if not place.is_dir():
        try:
            place = Path(
                snapshot_download(source.model, revision=source.revision, local_files_only=True)
            )
        except LocalEntryNotFoundError:
            return None
    if source.gguf_file:
        return of_files([place / source.gguf_file])
    return of_files(sorted(file for pattern in _OF_A_MODEL for file in place.glob(pattern)))


def of_config(place: Path) -> str:
    """That of a model configuration: a JSON file, or the folder it is in."""
    return of_files([place / "config.json" if place.is_dir() else place])


def of_files(files: Sequence[Path]) -> str:
    """That of files: of their names and of all bytes in them."""
    sizes = {file: file.stat().st_size for file in files}
    parts = [
        (file, start) for file in files for start in range(0, max(1, sizes[file]), CHUNK_BYTES)
    ]
    names = [f"{file.name} {sizes[file]}" for file in files]
    return _together([*names, *_in_threads(_of_chunk, parts)])


def of_model(model: nn.Module) -> str:
    """That of a model in memory: of names, shapes, types and all numbers of its weights, and of
    what its configuration says that they are computed with."""
    weights = sorted(model.state_dict().items())
    names = [f"{name} {tuple(weight.shape)} {weight.dtype}" for name, weight in weights]
    config = getattr(model, "config", None)
    facts = config.to_dict() if isinstance(config, PreTrainedConfig) else {}
    said = {name: value for name, value in facts.items() if name not in _NOT_COMPUTED_WITH}
    names.append(json.dumps(said, sort_keys=True, default=str))
    return _together([*names, *_in_threads(_of_tensor, [weight for _, weight in weights])])


def of_text(batches: Iterable[Batch]) -> str:
    """That of rows of tokens, of where in them documents lie, and of what is to be predicted."""
    total = hashlib.sha256()
    for batch in batches:
        for part in (batch.input_ids, batch.documents, batch.targets):
            total.update(str(tuple(part.shape)).encode())
            total.update(part.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def of_facts(facts: Mapping[str, Any]) -> str:
    """That of names and values, in whatever order; of a value that is no JSON, its text."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """That of all that decides which ids a text becomes; the chat template apart."""
    facts = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "machinery": _machinery(tokenizer),
        "added": {str(at): repr(token) for at, token in tokenizer.added_tokens_decoder.items()},
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "flags": {
            name: getattr(tokenizer, name, None) for name in ("add_bos_token", "add_eos_token")
        },
        "encoded": [tokenizer(text)["input_ids"] for text in PROBES],
    }
    return _together([json.dumps(facts, sort_keys=True)])


def of_chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """That of the chat template, or of all of them if there are several."""
    return _together([json.dumps(tokenizer.chat_template, sort_keys=True)])


def _machinery(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Merges, normaliser, pre-tokeniser, post-processor. What one call sets for itself is no part
    of it."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: part for name, part in parts.items() if name not in ("truncation", "padding")}


def _of_chunk(part: tuple[Path, int]) -> str:
    path, start = part
    digest, left = hashlib.sha256(), CHUNK_BYTES
    with path.open("rb") as file:
        file.seek(start)
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _of_tensor(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()


def _in_threads(work: Callable[[Item], str], items: Iterable[Item]) -> list[str]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(work, items))


def _together(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
