"""Model directories of strangers: how each is made, and the words that refusing it must say.

`HOSTILE` maps a name to a `Case`. Loaded with `runpy.run_path`, since tests are no package. Where
code is planted, it would write the file `CANARY` if anything ran it.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CANARY = "it-ran"


class Case(NamedTuple):
    """A sound model's folder becomes hostile by `spoil`."""

    spoil: Callable[[Path], None]
    says: str
    """A regular expression for the refusal."""
    source: dict[str, Any] = {}
    """What the recipe says beside `model`."""


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def setting(name: str = "config.json", **values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / name, **values)


def code(folder: Path) -> None:
    canary = folder.parent / CANARY
    line = f"import pathlib; pathlib.Path({str(canary)!r}).write_text('ran')\n"
    (folder / "own.py").write_text(line + "class Config: pass\nclass Model: pass\n")
    (folder / "custom_generate").mkdir(exist_ok=True)
    (folder / "custom_generate" / "generate.py").write_text(line + "def generate(): pass\n")


def with_code(name: str = "config.json", **values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        code(folder)
        if not (folder / name).exists():
            (folder / name).write_text("{}")
        change(folder / name, **values)

    return spoil


def pickle_calling_open(canary: Path) -> bytes:
    """A pickle that opens the canary for writing when it is read."""
    return b"cbuiltins\nopen\n(V" + str(canary).encode() + b"\nVw\ntR."


def pickled(name: str, archive: bool = True) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        content = pickle_calling_open(folder.parent / CANARY)
        if archive:
            with zipfile.ZipFile(folder / name, "w") as file:
                file.writestr("archive/data.pkl", content)
                file.writestr("archive/version", "3\n")
        else:
            (folder / name).write_bytes(content)

    return spoil


def pickle_named_safetensors(folder: Path) -> None:
    pickled("model.safetensors", archive=False)(folder)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> Any:
    def spoil(folder: Path) -> None:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        size = struct.pack("<Q", len(raw) if length is None else length)
        (folder / "model.safetensors").write_bytes(size + raw + data)

    return spoil


def one_tensor(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}}


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def longer(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"hidden")


def replaced(name: str, content: str | bytes) -> Callable[[Path], None]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: void((folder / name).write_bytes(raw))


def void(_: object) -> None:
    """Nothing."""


def sparse(name: str, size: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return spoil


def linked(name: str, target: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder.parent / "outside.json").write_text((folder / "config.json").read_text())
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return spoil


def pipe(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def index(weight_map: Any) -> Callable[[Path], None]:
    written = json.dumps({"metadata": {}, "weight_map": weight_map})
    return replaced("model.safetensors.index.json", written)


def gguf(*parts: bytes) -> Callable[[Path], None]:
    return replaced("model.gguf", b"GGUF" + struct.pack("<I", 3) + b"".join(parts))


def many(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(content: bytes) -> bytes:
    return many(len(content)) + content


def template_in_gguf(size: int) -> bytes:
    return text(b"tokenizer.chat_template") + struct.pack("<I", 8) + text(b"x" * size)


TENSOR = text(b"w") + struct.pack("<IQIQ", 1, 8, 0, 0)
"""Eight numbers of float32 at the start of the data."""

GGUF = {"gguf_file": "model.gguf"}
DEEP = "[" * 200_000 + "]" * 200_000
OWN: dict[str, Any] = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
AUTO: dict[str, Any] = {"auto_map": {"AutoModelForCausalLM": "own.Model"}}

HOSTILE: dict[str, Case] = {
    "pickle: only torch's": Case(pickled("pytorch_model.bin"), "pytorch_model.bin.*pickled.*Conv"),
    "pickle: plain": Case(pickled("model.pkl", archive=False), "model.pkl holds pickled"),
    "pickle: .pt": Case(pickled("consolidated.00.pt"), "consolidated.00.pt holds pickled"),
    "pickle: sharded": Case(pickled("pytorch_model-00001-of-00002.bin"), "00002.bin holds pickled"),
    "pickle: called safetensors": Case(pickle_named_safetensors, "claims a header of [0-9,]+ byt"),
    "pickle: in the index": Case(index({"w": "pytorch_model.bin"}), "which is not safetensors"),
    "code: type of its own": Case(with_code(**OWN), "config.json: auto_map.*'own.Config'"),
    "code: known type": Case(with_code(**AUTO), "'own.Model'.*ignore_remote_code"),
    "code: tokenizer": Case(
        with_code("tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Slow", None]}),
        "tokenizer_config.json: auto_map.*'own.Slow'",
    ),
    "code: generation": Case(
        with_code("generation_config.json", custom_generate="own.generate"),
        "generation_config.json: custom_generate",
    ),
    "code: processor": Case(
        with_code("processor_config.json", auto_map={"AutoProcessor": "own.Processor"}),
        "processor_config.json: auto_map",
    ),
    "code: pipeline": Case(
        with_code(custom_pipelines={"x": {"impl": "own.Pipe", "pt": ["AutoModel"]}}),
        "custom_pipelines.*'own.Pipe",
    ),
    "code: another repository's": Case(
        with_code(auto_map={"AutoModelForCausalLM": "evil/repo--own.Model"}),
        "code of another repository, 'evil/repo--own.Model'.*Copy that code",
        {"trust_remote_code": True},
    ),
    "code: compiled": Case(
        setting(attn_implementation="evil/kernel"), "attn_implementation 'evil/kernel'.*Remove"
    ),
    "code: compiled for a part": Case(
        setting(attn_implementation={"": "evil/kernel@main"}), "'evil/kernel@main' is compiled code"
    ),
    "adapter of another model": Case(
        replaced("adapter_config.json", '{"base_model_name_or_path": "evil/model"}'), "Merge it"
    ),
    "link: configuration": Case(
        linked("config.json", "../outside.json"), "config.json is a link out of.*outside.json"
    ),
    "link: absolute": Case(linked("vocab.json", "/etc/hostname"), "a link out of.*/etc/hostname"),
    "link: device": Case(linked("tokenizer.json", "/dev/zero"), "tokenizer.json is a link out of"),
    "link: itself": Case(linked("vocab.json", "vocab.json"), "vocab.json is a link"),
    "link: nothing": Case(linked("vocab.json", "absent"), "vocab.json is a link to nothing"),
    "special: pipe": Case(pipe("config.json"), r"config.json is neither.*\(a pipe\)"),
    "special: weights": Case(pipe("model.safetensors"), r"model.safetensors is neither.*\(a pipe"),
    "special: tokenizer": Case(pipe("tokenizer.json"), r"tokenizer.json is neither.*\(a pipe\)"),
    "size: vocabulary": Case(
        setting(vocab_size=10**12), "vocab_size is 1,000,000,000,000, outside"
    ),
    "size: a plausible vocabulary": Case(setting(vocab_size=10**8), "vocab_size × hidden_size is"),
    "size: width": Case(setting(hidden_size=10**9), "hidden_size is 1,000,000,000, outside"),
    "size: negative": Case(setting(hidden_size=-8), "hidden_size is -8, outside"),
    "size: layers": Case(setting(num_hidden_layers=10**8), "num_hidden_layers is 100,000,000"),
    "size: plausible layers": Case(setting(num_hidden_layers=9999), "9,999 layers, but the weigh"),
    "size: configuration": Case(sparse("config.json", 10**9), "config.json has 1,000,000,000 byt"),
    "size: tokenizer": Case(sparse("tokenizer.json", 6 * 10**8), "tokenizer.json has 600,000,000"),
    "size: template": Case(
        replaced("chat_template.jinja", "x" * 1_000_001), "chat_template.jinja has 1,000,001 bytes"
    ),
    "size: template in settings": Case(
        setting("tokenizer_config.json", chat_template="x" * 1_000_001), "chat_template has 1,000,0"
    ),
    "json: none": Case(replaced("config.json", "{not"), "config.json is no JSON.*restore it"),
    "json: empty": Case(replaced("config.json", ""), "config.json is no JSON"),
    "json: a list": Case(replaced("config.json", "[]"), "config.json holds a JSON list"),
    "json: not unicode": Case(replaced("config.json", b"\xff\xfe\x00"), "config.json is no JSON"),
    "json: deep": Case(replaced("config.json", DEEP), "config.json is nested without end"),
    "json: deep tokenizer": Case(replaced("tokenizer.json", DEEP), "tokenizer"),
    "json: generation": Case(
        replaced("generation_config.json", "7"), "generation_config.json hold"
    ),
    "generation: nonsense": Case(
        setting("generation_config.json", max_new_tokens=-5, cache_implementation="evil"),
        "generation_config",
    ),
    "weights: empty": Case(replaced("model.safetensors", b""), "model.safetensors has 0 bytes"),
    "weights: truncated": Case(truncated, "bytes follow its header.*Download it again"),
    "weights: bytes behind": Case(longer, "bytes follow its header"),
    "weights: huge header": Case(
        safetensors(b"{}", length=2**62), "claims a header of 4,611,686,0"
    ),
    "weights: long header": Case(safetensors(b"{}", length=1000), "ends within its header"),
    "weights: header a list": Case(safetensors([]), "header that is a JSON list"),
    "weights: header deep": Case(safetensors(DEEP.encode()), "header that is no JSON"),
    "weights: name twice": Case(safetensors(b'{"w": 1, "w": 2}'), "twice"),
    "weights: behind the end": Case(
        safetensors(one_tensor("F32", [2], 2**40, 2**40 + 8), b"12345678"), "leave a gap"
    ),
    "weights: overlap": Case(
        safetensors(
            one_tensor("U8", [8], 0, 8)
            | {"v": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}},
            b"12345678",
        ),
        "overlap",
    ),
    "weights: shape too big": Case(
        safetensors(one_tensor("F32", [10**9, 10**9], 0, 8), b"12345678"), "where it does not fit"
    ),
    "weights: negative": Case(
        safetensors(one_tensor("U8", [-8, -1], 0, 8), b"12345678"), "impossible shape"
    ),
    "weights: type": Case(safetensors(one_tensor("PICKLE", [8], 0, 8), b"12345678"), "'PICKLE'"),
    "index: parent": Case(index({"w": "../model.safetensors"}), r"names '\.\./model.safetensors'"),
    "index: absolute": Case(index({"w": "/x.safetensors"}), "names '/x.safetensors'"),
    "index: dots": Case(index({"w": ".."}), r"names '\.\.'"),
    "index: absent": Case(index({"w": "absent.safetensors"}), "'absent.safetensors', which is not"),
    "index: a list": Case(index([1]), "no weight_map"),
    "gguf: none": Case(replaced("model.gguf", b"x" * 40), "is no GGUF file", GGUF),
    "gguf: short": Case(replaced("model.gguf", b"GGUF"), "too few bytes", GGUF),
    "gguf: tensors": Case(gguf(many(2**60), many(0)), "claims 1,152,921,504,606,846,976 te", GGUF),
    "gguf: metadata": Case(gguf(many(0), many(2**60)), "entries of metadata", GGUF),
    "gguf: text": Case(gguf(many(0), many(1), many(2**60)), "claims a text of", GGUF),
    "gguf: list": Case(
        gguf(many(0), many(1), text(b"k"), struct.pack("<IIQ", 9, 0, 2**60)), "ends within", GGUF
    ),
    "gguf: lists of lists": Case(
        gguf(many(0), many(1), text(b"k"), struct.pack("<I", 9), struct.pack("<IQ", 9, 1) * 99),
        "nested without end",
        GGUF,
    ),
    "gguf: tensor behind the end": Case(gguf(many(1), many(0), TENSOR), "but ends at", GGUF),
    "gguf: template": Case(
        gguf(many(0), many(1), template_in_gguf(1_000_001)), "chat_template' of 1,000", GGUF
    ),
}
