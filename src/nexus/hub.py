"""Load and save models and tokenizers: a local folder, a hub name or a GGUF file.

Code that comes with a model runs only when the recipe says `trust_remote_code: true` beside that
model, and pickled weights are never read.
"""

from __future__ import annotations

import copy
import io
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import GgufConfig

from nexus.errors import UsageError
from nexus.spec import Spec

Dtype = Literal["float32", "bfloat16", "float16", "auto"]

_log = logging.getLogger(__name__)
_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_ONLY_CAUSAL = "Nexus distils decoder-only language models: name one"


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
    """Run the Python code that comes with this model."""

    def __str__(self) -> str:
        return f"'{self.model}'" + (f" ({self.gguf_file})" if self.gguf_file else "")


def load_model(source: ModelSource, folder: Path, dtype: Dtype | None = None) -> PreTrainedModel:
    """Load a causal language model with every weight in place.

    Args:
        source: What to load.
        folder: The recipe's folder, which relative paths are relative to.
        dtype: What to hold the weights in, where it is not for the source to say.

    Raises:
        UsageError: Nothing is there, it is no causal language model, it lacks weights, or it needs
            code of its own.
    """
    where = locate(source, folder)
    config = _config(source, where)
    _require_causal(source, config)
    precision = dtype or source.dtype
    dequantize = {"quantization_config": GgufConfig(dequantize=True)} if source.gguf_file else {}
    loader: Any = AutoModelForCausalLM
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
            **dequantize,
        )
    if missing := sorted(report["missing_keys"]):
        raise UsageError(
            f"Model {source} lacks {len(missing)} weights of a {type(model).__name__}, "
            f"'{missing[0]}' first: it was saved as something else ({_architecture(config)}). "
            f"{_ONLY_CAUSAL}."
        )
    if unexpected := sorted(report["unexpected_keys"]):
        _log.warning(
            "Model %s holds %d weights that a %s does not use, %r first.",
            *(source, len(unexpected), type(model).__name__, unexpected[0]),
        )
    return model


def load_config(source: ModelSource, folder: Path) -> PreTrainedConfig:
    """The configuration of a causal language model, without its weights.

    Raises:
        UsageError: There is none, it is of no causal language model, or it needs code of its own.
    """
    config = _config(source, locate(source, folder))
    _require_causal(source, config)
    return config


def load_tokenizer(source: ModelSource, folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model.

    Raises:
        UsageError: There is none, or it needs code of its own.
    """
    where = locate(source, folder)
    _config(source, where)
    missing = UsageError(
        f"Model {source} has no tokenizer that can be loaded. Save one beside the weights with "
        "tokenizer.save_pretrained(folder)."
    )
    with quiet(), _explained(source):
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **_options(source))
        except ValueError as error:
            raise (_needs_code(source) if "trust_remote_code" in str(error) else missing) from error
    if len(tokenizer.get_vocab()) <= len(tokenizer.get_added_vocab()):
        raise missing
    return tokenizer


def save(model: nn.Module, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a plain checkpoint that `from_pretrained` loads.

    Args:
        model: A transformers model, or one that PEFT wraps, whose adapters are merged into a copy.
        tokenizer: What belongs to it.
        path: The folder to write.
    """
    with quiet():
        merged(model).save_pretrained(path)
        tokenizer.save_pretrained(path)


def locate(source: ModelSource, folder: Path) -> str:
    """The folder that `source` names where it exists, else its name on the hub.

    Raises:
        UsageError: The name looks like a path and nothing is there, or the folder lacks a model.
    """
    path = folder / Path(source.model).expanduser()
    if path.is_dir():
        _require_files(source, path)
        return str(path)
    if path.is_file():
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
    source = ModelSource(model=str(path))
    config = _config(source, str(path))
    _require_causal(source, config)
    return config


def _options(source: ModelSource) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    if source.gguf_file:
        options["gguf_file"] = source.gguf_file
    if source.revision:
        options["revision"] = source.revision
    return options


def _require_files(source: ModelSource, path: Path) -> None:
    if source.revision:
        raise UsageError(
            f"Model '{source.model}' is a folder, which has no revision '{source.revision}'. "
            "Drop revision, or name the model on the hub."
        )
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if source.gguf_file and not (path / source.gguf_file).is_file():
        raise UsageError(
            f"Model '{source.model}' has no file '{source.gguf_file}'. "
            f"GGUF files there: {', '.join(ggufs) or 'none'}."
        )
    if not source.gguf_file and not (path / "config.json").is_file():
        hint = f"add gguf_file: {ggufs[0]}" if ggufs else "name a folder that save_pretrained wrote"
        raise UsageError(f"Model '{source.model}' has no config.json: {hint}.")


def _config(source: ModelSource, where: str) -> PreTrainedConfig:
    """The model's configuration, once it is sure that reading it needs no code from elsewhere."""
    with quiet(), _explained(source):
        if not source.gguf_file:
            revision = {"revision": source.revision} if source.revision else {}
            raw, _ = PreTrainedConfig.get_config_dict(where, **revision)
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


def _require_causal(source: ModelSource, config: PreTrainedConfig) -> None:
    brings_code = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if source.trust_remote_code and brings_code:
        return
    known = type(config)
    reads_both_ways = known in MODEL_FOR_MASKED_LM_MAPPING and not config.is_decoder
    if known not in MODEL_FOR_CAUSAL_LM_MAPPING or config.is_encoder_decoder or reads_both_ways:
        raise UsageError(
            f"Model {source} is a {_architecture(config)} ({config.model_type}), not a causal "
            f"language model. {_ONLY_CAUSAL}."
        )


def _architecture(config: PreTrainedConfig) -> str:
    return ", ".join(config.architectures or [type(config).__name__.removesuffix("Config")])


def _needs_code(source: ModelSource) -> UsageError:
    return UsageError(
        f"Model {source} needs Python code that comes with it. Read that code, and if you trust it "
        "add trust_remote_code: true beside the model."
    )


@contextmanager
def _explained(source: ModelSource) -> Iterator[None]:
    """Files that cannot be had or read are the user's to mend; anything else is a bug and passes.

    Raises:
        UsageError: With the library's reason and the remedies.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"Model {source} cannot be loaded: {str(error).strip()}\n"
            "It is no folder beside the recipe, or one without these files. Name a folder that "
            "save_pretrained wrote (safetensors, not pickle), or a model on the hub; a gated one "
            "needs `hf auth login`, and without network only downloaded models are there."
        ) from error


def merged(model: nn.Module) -> Any:
    """The model itself, or a copy with its adapters merged where it has some."""
    if "peft" not in sys.modules:  # a model cannot carry adapters before PEFT is imported
        return model
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return model
    adapted = copy.deepcopy(model)
    base = adapted.get_base_model()
    _untie(base)
    return adapted.merge_and_unload()


def _untie(model: Any) -> None:
    """Part a head from the embedding it is tied to, where an adapter sits on only one of them."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if type(head) is nn.Linear and type(embedding) is nn.Embedding:
        return
    weight, tied = _base_layer(head).weight, _base_layer(embedding).weight
    if weight is tied:
        _base_layer(head).weight = nn.Parameter(weight.detach().clone())
    model.config.get_text_config().tie_word_embeddings = False
    model.config.tie_word_embeddings = False


def _base_layer(module: Any) -> Any:
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module
