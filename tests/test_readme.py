"""What the README and the documentation say can be done, can be done."""

from __future__ import annotations

import functools
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nexus.recipe.schema import Recipe

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"(?P<mark><!-- [^\n]+ -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```", re.M | re.S
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)(?:#[^)]*)?\)")
SKELETON: dict[str, Any] = {
    "output": "run",
    "teacher": {"kind": "local", "model": "teacher"},
    "student": {"kind": "pretrained", "model": "student"},
    "data": {"sources": [{"kind": "jsonl", "path": "train.jsonl"}]},
    "objectives": [{"kind": "output"}],
    "train": {"steps": 1},
}


class Block(NamedTuple):
    page: Path
    line: int
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> list[Block]:
    """The fenced blocks of one language, each with the HTML comment that stands right above it."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in FENCE.finditer(text):
            if match["language"] == language:
                line = text[: match.start()].count("\n") + 1
                found.append(
                    Block(page, line, (match["mark"] or "").strip("<!-> \n"), match["text"])
                )
    return found


def nexus(*arguments: str) -> str:
    """What the command prints, as a user without a terminal would see it."""
    command = [sys.executable, "-m", "nexus", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


@functools.cache
def help_of(*verb: str) -> str:
    return nexus(*verb, "--help")


def verbs() -> list[str]:
    return re.findall(r"\w+", help_of().partition("{")[2].partition("}")[0])


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_name_verbs_flags_and_targets_that_exist(block: Block) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in block.text.replace("\\\n", " ").splitlines():
        for command in re.split(r"&&|;|\|", line):
            words = shlex.split(command, comments=True)
            if words[:1] == ["make"]:
                assert not {word for word in words[1:] if "=" not in word} - set(targets)
            elif "nexus" in {Path(word).name for word in words}:
                place = [Path(word).name for word in words].index("nexus")
                verb, *rest = words[place + 1 :]
                assert verb == "--help" or verb in verbs()
                flags = {word for word in rest if word.startswith("--")}
                assert not {flag for flag in flags if flag not in help_of(verb)}


def test_the_source_tree_of_the_readme_exists() -> None:
    tree = (ROOT / "README.md").read_text().partition("```\nsrc/nexus/")[2].partition("```")[0]
    named = re.findall(r"[\w/]+(?:\.py|\.html|/)(?=[\s:])", tree)
    there = [path.as_posix() for path in (ROOT / "src" / "nexus").rglob("*")]
    assert len(named) > 20
    for name in named:
        assert any(path.endswith(f"/{name.rstrip('/')}") for path in there), name


def test_help_and_schema_run() -> None:
    assert "distill" in verbs()
    assert verbs() == [verb for verb in verbs() if "Example: nexus " in help_of(verb)]
    assert yaml.safe_load(nexus("schema"))["properties"]["teacher"]


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_recipes_and_parts_of_recipes_validate(block: Block) -> None:
    """A block with an output stands alone; another completes a skeleton."""
    values = yaml.safe_load(block.text)
    alone = "output" in values
    replaced = {"objectives", "train"} if "stages" in values else set()
    skeleton = {key: value for key, value in SKELETON.items() if key not in replaced}
    Recipe.parse(values if alone else {**skeleton, **values})


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


RUN = [block for block in blocks("python") if block.mark == "runs"]


@pytest.mark.parametrize("page", sorted({block.page for block in RUN}), ids=lambda page: page.stem)
def test_python_that_is_marked_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the top of the page down, with tiny models where it names large ones."""
    monkeypatch.chdir(tmp_path)
    ids = torch.arange(24).view(2, 12)
    names: dict[str, Any] = {"dataloader": [{"input_ids": ids, "labels": ids}]}
    for block in RUN:
        if block.page == page:
            for model in re.findall(r'from_pretrained\("([^"]+)"\)', block.text):
                save_tiny_model(tmp_path / model)
            exec(compile(block.text, str(block), "exec"), names)


def save_tiny_model(folder: Path) -> None:
    words = [f"w{number}" for number in range(62)]
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    pages = [path.relative_to(ROOT / "docs") for path in PAGES if (ROOT / "docs") in path.parents]
    assert not [str(page) for page in pages if str(page) not in listed]


def test_the_reference_is_what_the_code_says() -> None:
    module = runpy.run_path(str(ROOT / "docs" / "generate_reference.py"))
    assert module["TARGET"].read_text() == module["reference"](), "run `make docs`"
