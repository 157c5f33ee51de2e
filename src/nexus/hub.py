"""Load and save models and tokenizers: a local folder, a hub name or a GGUF file.

A folder is inspected before anything in it is loaded. Code that comes with a model runs only when
the recipe says `trust_remote_code: true` beside that model (and names the commit, if it is on the
hub), and pickled weights are never read.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import GgufConfig

from nexus import download
from nexus.adapters import merged
from nexus.architectures import ONLY_CAUSAL, architecture, loader_of
from nexus.errors import NexusError, UsageError
from nexus.inspection.code import (
    code_files,
    code_hash,
    refuse_code_in,
    refuse_foreign_code,
    refuse_kernels,
)
from nexus.inspection.folder import inspect
from nexus.inspection.json_file import read_json
from nexus.inspection.sizes import check_sizes
from nexus.quantization.checkpoint import is_quantized, loadable, settle
from nexus.spec import Spec
from nexus.ties import check_saved_tie

Dtype = Literal["float32", "bfloat16", "float16", "auto"]

_log = logging.getLogger(__name__)
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_NO_MEMORY = re.compile("allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)
_GENERATION = "generation_config.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


class ModelSource(Spec):
    """Where a causal language model and its tokenizer come from."""

    model: str
    """A folder, relative to the recipe's own, or the name of a model on the hub."""
    gguf_file: str | None = None
    """The GGUF file in that folder. Its weights are dequantised."""
    revision: str | None = None
    """The branch, tag or commit of a model on the hub."""
    dtype: Dtype = "float32"
    """What the weights are held in; `auto` is what they were saved in."""
    trust_remote_code: bool = False
    """Run the Python code that comes with this model. Of a model on the hub `revision` must be a
    whole commit."""
    ignore_remote_code: bool = False
    """Load a model that comes with Python code without it, as transformers itself knows it."""

    @model_validator(mode="after")
    def _trusts_what_it_names(self) -> Self:
        if self.trust_remote_code and "://" in self.model:
            raise ValueError(
                f"model is the address '{self.model}', whose code is never run: name a folder, or "
                "a model on the hub with its commit"
            )
        if self.trust_remote_code and self.revision and not _COMMIT.fullmatch(self.revision):
            raise ValueError(
                f"revision '{self.revision}' can be moved to other code, so trust_remote_code "
                "needs the whole commit: 40 digits, which the model's page lists under History"
            )
        if self.trust_remote_code and self.ignore_remote_code:
            raise ValueError("trust_remote_code and ignore_remote_code: keep one of them")
        return self

    def __str__(self) -> str:
        return f"'{self.model}'" + (f" ({self.gguf_file})" if self.gguf_file else "")


def load_model(
    source: ModelSource, folder: Path, dtype: Dtype | None = None, *, encoders: bool = False
) -> PreTrainedModel:
    """Load a causal language model with every weight in place.

    Args:
        source: What to load.
        folder: The recipe's folder, which relative paths are relative to.
        dtype: What to hold the weights in, where it is not for the source to say.
        encoders: Whether an encoder will do, as what it was saved as.

    Raises:
        UsageError: Nothing is there, it is no causal language model, it lacks weights, or it needs
            code of its own.
    """
    where = _inspected(source, folder, weights=True)
    config = _config(source, where)
    loader = _loader(source, config, encoders)
    precision = dtype or source.dtype
    special: dict[str, Any] = {}
    if source.gguf_file:
        special["quantization_config"] = GgufConfig(dequantize=True)
    elif is_quantized(config):
        special["config"] = loadable(config, str(source))
    model: PreTrainedModel
    # Dequantising a GGUF file draws a bar of its own, which nothing else turns off.
    bar = redirect_stderr(io.StringIO()) if source.gguf_file else nullcontext()
    with quiet(), _explained(source), bar:
        model, report = loader.from_pretrained(
            where,
            dtype=precision if precision == "auto" else getattr(torch, precision),
            use_safetensors=None if source.gguf_file else True,
            output_loading_info=True,
            **_options(source),
            **special,
        )
    if "config" in special:
        settle(model, config)
    if missing := sorted(report["missing_keys"]):
        raise UsageError(
            f"Model {source} lacks {len(missing)} weights of a {type(model).__name__}, "
            f"'{missing[0]}' first: it was saved as something else ({architecture(config)}). "
            f"{ONLY_CAUSAL}."
        )
    if source.ignore_remote_code:  # or what is saved would name code that it does not have
        vars(model.config).pop("auto_map", None)
    if unexpected := sorted(report["unexpected_keys"]):
        _log.warning(
            "Model %s holds %d weights that a %s does not use, %r first.",
            *(source, len(unexpected), type(model).__name__, unexpected[0]),
        )
    return model


def load_config(source: ModelSource, folder: Path, *, encoders: bool = False) -> PreTrainedConfig:
    """The configuration of a causal language model, without its weights; or of an encoder.

    Raises:
        UsageError: There is none, it is of no causal language model, or it needs code of its own.
    """
    config = _config(source, _inspected(source, folder))
    _loader(source, config, encoders)
    return config


def load_generation(source: ModelSource, folder: Path) -> GenerationConfig | None:
    """How a model writes, if that was saved with it."""
    where = Path(_inspected(source, folder))
    return GenerationConfig.from_pretrained(where) if (where / _GENERATION).is_file() else None


def load_tokenizer(source: ModelSource, folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model.

    Raises:
        UsageError: There is none, or it needs code of its own.
    """
    where = _inspected(source, folder)
    _config(source, where)
    missing = UsageError(
        f"Model {source} has no tokenizer that can be loaded. Save one beside the weights with "
        "tokenizer.save_pretrained(folder)."
    )
    with quiet(), _explained(source, "The tokenizer of model"):
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **_options(source))
        except ValueError as error:
            raise (_needs_code(source) if "trust_remote_code" in str(error) else missing) from error
    if source.ignore_remote_code:
        tokenizer.init_kwargs.pop("auto_map", None)
    if len(tokenizer.get_vocab()) <= len(tokenizer.get_added_vocab()):
        raise missing
    return tokenizer


def save(model: nn.Module, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a plain checkpoint that `from_pretrained` loads.

    Args:
        model: A transformers model, or one that PEFT wraps, whose adapters are merged into a copy.
        tokenizer: What belongs to it.
        path: The folder to write.

    Raises:
        NexusError: Whether its head is its embedding is one thing in the configuration and another
            in the weights, so that it would be loaded as something else.
    """
    plain = merged(model)
    with quiet():
        plain.save_pretrained(path)
        tokenizer.save_pretrained(path)
    check_saved_tie(plain, path)


def code_of(source: ModelSource, folder: Path) -> str | None:
    """One sentence about the Python code that a model runs, for the record; nothing if none."""
    if not source.trust_remote_code:
        return None
    where = Path(_inspected(source, folder))
    files = code_files(where)
    if not files:
        return None
    names = ", ".join(path.relative_to(where).as_posix() for path in files)
    commit = f" of commit {source.revision}" if source.revision else ""
    return (
        f"Model {source} runs Python code of its own{commit}, since trust_remote_code is true: "
        f"{names}, with SHA-256 {code_hash(where)}."
    )


def locate(source: ModelSource, folder: Path) -> str:
    """The folder that `source` names where it exists, else its name on the hub.

    Raises:
        UsageError: The name looks like a path and nothing is there, or the folder lacks a model.
    """
    path = folder / Path(source.model).expanduser()
    if os.path.isdir(path):  # of a name that no disk can hold, pathlib would raise
        _require_files(source, path)
        return str(path)
    if os.path.isfile(path):
        raise UsageError(
            f"Model '{source.model}' is a file. Name its folder"
            + (f" and add gguf_file: {path.name}." if path.suffix == ".gguf" else ".")
        )
    if not _HUB_NAME.fullmatch(source.model):
        raise UsageError(
            f"Model '{source.model}' does not exist: there is no folder {path.absolute()}. "
            "Correct the path, which is relative to the recipe, or name a model on the hub."
        )
    return source.model


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' advice and its bars for local work off the screen, downloads' apart."""
    verbosity = transformers_logging.get_verbosity()
    hook = transformers_logging.set_tqdm_hook(
        lambda bar, args, options: bar(*args, **{**options, "disable": True})
    )
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.set_tqdm_hook(hook)


def read_config(path: Path) -> PreTrainedConfig:
    """The configuration of a causal language model in a folder or a JSON file, weights apart.

    Raises:
        UsageError: It is not there, not readable, or of no causal language model.
    """
    if path.is_dir():
        path = path / "config.json"
    if not path.is_file():
        raise UsageError(f"There is no model configuration at {path.absolute()}. Correct the path.")
    refuse_code_in(path)
    refuse_kernels(path)
    check_sizes(path, read_json(path), None)
    source = ModelSource(model=str(path))
    config = _config(source, str(path))
    _loader(source, config)
    return config


def _inspected(source: ModelSource, folder: Path, *, weights: bool = False) -> str:
    """The folder that a model is loaded from, found to be harmless: its own or the hub's cache."""
    where = locate(source, folder)
    runs, ignores = source.trust_remote_code, source.ignore_remote_code
    if os.path.isdir(folder / Path(source.model).expanduser()):
        inspect(Path(where), gguf_file=source.gguf_file, code=runs or ignores)
    else:
        if runs and not source.revision:
            raise UsageError(
                f"Model {source} may run its own Python code (trust_remote_code: true), but no "
                "commit says which. Read the code on the hub, and add revision: COMMIT with the 40 "
                "digits of the commit that you read."
            )
        with _explained(source):
            where = str(
                download.snapshot(
                    source.model, source.revision, source.gguf_file,
                    weights=weights, code=runs, ignore_code=ignores,
                )
            )  # fmt: skip
    if runs:
        refuse_foreign_code(Path(where))
    return where


def _options(source: ModelSource) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    if source.gguf_file:
        options["gguf_file"] = source.gguf_file
    return options


def _require_files(source: ModelSource, path: Path) -> None:
    if source.revision:
        raise UsageError(
            f"Model '{source.model}' is a folder, which has no revision '{source.revision}'. "
            "Drop revision, or name the model on the hub."
        )
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if source.gguf_file and not (path / source.gguf_file).exists():
        raise UsageError(
            f"Model '{source.model}' has no file '{source.gguf_file}'. "
            f"GGUF files there: {', '.join(ggufs) or 'none'}."
        )
    config = path / "config.json"  # a link to nowhere is there: what may be read `inspect` says
    if not (source.gguf_file or config.exists() or config.is_symlink()):
        hint = f"add gguf_file: {ggufs[0]}" if ggufs else "name a folder that save_pretrained wrote"
        raise UsageError(f"Model '{source.model}' has no config.json: {hint}.")


def _config(source: ModelSource, where: str) -> PreTrainedConfig:
    """The model's configuration, once it is sure that reading it needs no code from elsewhere."""
    with quiet(), _explained(source):
        if not source.gguf_file:
            raw, _ = PreTrainedConfig.get_config_dict(where)
            kind = raw.get("model_type")
            if kind not in CONFIG_MAPPING and not source.trust_remote_code:
                if "auto_map" in raw:
                    raise _needs_code(source)
                raise UsageError(
                    f"Model {source} is of type '{kind}', which the installed transformers does "
                    "not know. Upgrade transformers, or name another model."
                )
        config = AutoConfig.from_pretrained(where, **_options(source))
    return config  # type: ignore[no-any-return]


def _loader(source: ModelSource, config: PreTrainedConfig, encoders: bool = False) -> Any:
    trusted = source.trust_remote_code
    return loader_of(str(source), config, trusted=trusted, encoders=encoders)


def _needs_code(source: ModelSource) -> UsageError:
    return UsageError(
        f"Model {source} needs Python code that comes with it. Read that code, and if you trust it "
        "add trust_remote_code: true beside the model (and of a model on the hub revision: COMMIT)."
    )


@contextmanager
def _explained(source: ModelSource, what: str = "Model") -> Iterator[None]:
    """What a library makes of a model's files is theirs to mend, whatever it raises but for want
    of memory.

    Raises:
        UsageError: With the library's reason and the remedies.
    """
    try:
        yield
    except (NexusError, MemoryError):
        raise
    except OSError as error:
        if _NO_MEMORY.search(str(error)):
            raise
        raise UsageError(
            f"{what} {source} cannot be loaded: {str(error).strip()}\n"
            "It is no folder beside the recipe, or one without these files. Name a folder that "
            "save_pretrained wrote (safetensors, not pickle), or a model on the hub; a gated one "
            "needs `hf auth login`, and without network only downloaded models are there."
        ) from error
    except Exception as error:
        if _NO_MEMORY.search(str(error)):
            raise
        said = " ".join(str(error).split()) or "no reason given"
        raise UsageError(
            f"{what} {source} cannot be loaded: {type(error).__name__}: {said[:400]}. Its files do "
            "not make a model that the installed transformers can read: restore them, or name "
            "another model."
        ) from error
