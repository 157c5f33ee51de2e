"""A smaller checkpoint and its record; what cannot be done is one line."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, OPTConfig

from nexus import pruned
from nexus.batch import PADDING, Batch
from nexus.errors import UsageError
from nexus.prune import kept_tokens, ranking_table
from nexus.pruned import Cut, prune_checkpoint, searching
from nexus.students.ranking import Search

SMALL = runpy.run_path(str(Path(__file__).with_name("workspace.py")))
ENCODERS = runpy.run_path(str(Path(__file__).with_name("encoders.py")))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    SMALL["write_workspace"](folder)
    return folder


def cut(workspace: Path, name: str, **settings: Any) -> Cut:
    return Cut(str(workspace / "teacher"), workspace / name, **settings)


def test_the_same_is_written_of_the_same(workspace: Path) -> None:
    settings = {"shape": ("neurons=32",), "text": (str(workspace / "train.jsonl"),)}
    one, other = (
        prune_checkpoint(cut(workspace, name, **settings), lambda text: None)
        for name in ("one", "other")
    )
    assert one["scores_fingerprint"] == other["scores_fingerprint"]
    assert one["data"] == other["data"] and one["after"]["neurons"] == 32
    weights = [(workspace / name / "model.safetensors").read_bytes() for name in ("one", "other")]
    assert weights[0] == weights[1]


def test_documents_that_would_see_each_other_get_rows_of_their_own(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPT takes positions, and all the same lets documents of a row see each other.

    To see it fail: in pruned._calibration, pack rows for every model."""
    config = OPTConfig(
        vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64,
        word_embed_proj_dim=32,
    )  # fmt: skip
    SMALL["save"](workspace / "opt", AutoModelForCausalLM.from_config(config))
    looked_at: list[Batch] = []
    real = pruned.make

    def seen(model: Any, text: list[Batch], *given: Any, **named: Any) -> Any:
        looked_at.extend(text)
        return real(model, text, *given, **named)

    monkeypatch.setattr(pruned, "make", seen)
    asked = Cut(
        str(workspace / "opt"), workspace / "opt-small", shape=("neurons=32",),
        text=(str(workspace / "train.jsonl"),),
    )  # fmt: skip
    assert prune_checkpoint(asked, lambda text: None)["after"]["neurons"] == 32
    inside = [row[row != PADDING].unique() for batch in looked_at for row in batch.documents]
    assert inside and all(len(documents) == 1 for documents in inside)


def test_without_text_the_model_writes_its_own_and_says_so(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nexus.pruning.own_text import own_text

    monkeypatch.setattr("nexus.pruned.own_text", lambda model, seed: own_text(model, 200, 32, seed))
    said: list[str] = []
    facts = prune_checkpoint(cut(workspace, "own", shape=("neurons=32",)), said.append)
    assert any("writes its own" in one for one in said) and "itself" in facts["data"]


def test_scores_serve_another_target_without_a_look_at_text(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = workspace / "kept" / "scores.safetensors"
    text = (str(workspace / "train.jsonl"),)
    settings: dict[str, Any] = {"scores": kept, "repair": False}
    one = prune_checkpoint(
        cut(workspace, "first", shape=("neurons=32",), text=text, **settings), lambda text: None
    )
    monkeypatch.setattr("nexus.pruning.scored.measure", None)
    monkeypatch.setattr("nexus.pruned.own_text", None)
    other = prune_checkpoint(
        cut(workspace, "second", shape=("neurons=32", "layers=3"), **settings), lambda text: None
    )
    assert other["scores_fingerprint"] == one["scores_fingerprint"]
    with pytest.raises(UsageError, match="other data"):
        rows = workspace / "others.jsonl"
        SMALL["write_rows"](rows, [{"text": "Something else entirely. " * 200}])
        again = cut(workspace, "third", shape=("layers=3",), text=(str(rows),), **settings)
        prune_checkpoint(again, lambda text: None)


def test_scores_made_with_text_serve_where_there_is_none(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To see it fail: in pruned.prune_checkpoint, leave any_text out."""
    from nexus.pruning.own_text import own_text

    monkeypatch.setattr("nexus.pruned.own_text", lambda model, seed: own_text(model, 200, 32, seed))
    kept, text = workspace / "any.safetensors", (str(workspace / "train.jsonl"),)
    said: list[str] = []
    one, other = (
        prune_checkpoint(
            cut(workspace, f"any-{number}", shape=("neurons=32",), text=given, scores=kept),
            said.append,
        )
        for number, given in enumerate((text, ()))
    )
    assert other["scores_fingerprint"] == one["scores_fingerprint"]
    assert other["scores_data"] == one["scores_data"] and "itself" in other["data"]
    assert any(f"importance is taken from {kept}" in line for line in said)
    assert f"importance as in {kept}, of text {one['scores_data'][:12]}" in said


def test_a_search_is_written_down_and_cheap_to_do_again(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = workspace / "long.jsonl"
    SMALL["write_rows"](rows, [{"text": f"Line {n} of a longer text. " * 30} for n in range(80)])
    settings: dict[str, Any] = {
        "target": 0.75,
        "budget": "bytes",
        "multiple": 4,
        "text": (str(rows),),
        "scores": workspace / "searched.safetensors",
        "search": Search(candidates=2, tokens=4_000, tokens_per_step=500, zero_shot_tokens=500),
    }
    monkeypatch.setattr("nexus.pruned.TOKENS", 2_000)
    facts = prune_checkpoint(cut(workspace, "searched", **settings), lambda text: None)
    found = facts["search"]
    assert len(found["candidates"]) == 3
    assert found["candidates"][found["winner"]] == facts["after"]
    assert abs(facts["target"]["taken"] / facts["target"]["wanted"] - 1) <= 0.02
    assert [len(rung["rank"]) for rung in found["rungs"]] == [3, 2]
    table = ranking_table(found)
    assert len(table.splitlines()) == 6 and "*" in table and "as cut" in table
    monkeypatch.setattr("nexus.students.trial.Trial.train", None)
    again = prune_checkpoint(cut(workspace, "again", **settings), lambda text: None)
    assert again["search"] == found


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either --target-params"),
        ({"target_params": 1e4, "shape": ("layers=2",)}, "not both"),
        ({"target": 0.5, "target_params": 1e4}, "not both"),
        ({"target_params": 1e4, "budget": "bytes"}, "add --target 0.75"),
        ({"target_params": 0.8}, "for a share of the model target: 0.8"),
        ({"target_params": -5.0}, "-5 is no number of parameters"),
        ({"target": -5.0}, "target -5 is no size"),
        ({"target": 0.5, "budget": "flop"}, "did you mean 'flops'?"),
        ({"target": 0.5, "aggregate": ("mean", "max")}, "Known: mean, l2, variance"),
        ({"target": 0.5, "aggregate": ("mean",)}, "Write mean l2"),
        ({"shape": ("layers=3",), "search": Search()}, "drop one"),
        ({"target": 0.5, "search": Search()}, "tokens with --text"),
        ({"target": 0.5, "calibration_tokens": 0}, "give at least 1"),
        ({"shape": ("neurons:32",)}, "write it as neurons=896"),
        ({"shape": ("width=32",)}, "Known: neurons"),
        ({"target_params": 3e4, "strategy": "activations"}, "did you mean 'activation'?"),
        ({"target_params": 1e9, "strategy": "magnitude", "repair": False}, "cannot be cut out"),
        ({"target_params": 1e3, "strategy": "magnitude", "repair": False}, "nearest"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    workspace: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        prune_checkpoint(cut(workspace, "never", **settings), lambda text: None)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (workspace / "never").exists()


@pytest.mark.parametrize("given", [(16, None), (None, 9_000)])
def test_what_is_said_of_a_search_that_is_not_asked_for_is_refused(
    given: tuple[int | None, int | None],
) -> None:
    with pytest.raises(UsageError, match="there is none: add --search"):
        searching(False, *given)
    found = searching(True, *given)
    assert found is not None and found == Search(
        candidates=given[0] or Search().candidates, tokens=given[1] or Search().tokens
    )
    assert searching(False, None, None) is None


@pytest.mark.parametrize("settings", [{"target_params": 1e9}, {"target": 0.5, "multiple": 0}])
def test_a_target_that_cannot_be_is_refused_before_anything_is_written_or_measured(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr("nexus.pruned.own_text", None)
    with pytest.raises(UsageError, match=r"cannot be (cut out|multiples)"):
        prune_checkpoint(cut(workspace, "never", **settings), lambda text: None)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_loaded_as_what_was_saved(workspace: Path, dtype: Any) -> None:
    text = (str(workspace / "train.jsonl"),)
    settings: dict[str, Any] = {"shape": ("neurons=32", "layers=2"), "text": text}
    facts = prune_checkpoint(cut(workspace, dtype, dtype=dtype, **settings), lambda text: None)
    assert facts["proofs"][-1]["value"] == 0.0
    assert str(AutoModelForCausalLM.from_pretrained(workspace / dtype).dtype) == f"torch.{dtype}"


def test_text_shorter_than_a_sequence_and_a_full_folder_are_refused(workspace: Path) -> None:
    short = workspace / "short.jsonl"
    SMALL["write_rows"](short, [{"text": "Too short."}])
    with pytest.raises(UsageError, match="less than one sequence"):
        prune_checkpoint(
            cut(workspace, "never", shape=("neurons=32",), text=(str(short),)), lambda text: None
        )
    with pytest.raises(UsageError, match="not empty"):
        prune_checkpoint(cut(workspace, "teacher", shape=("neurons=32",)), lambda text: None)


def test_only_the_vocabulary_goes(workspace: Path) -> None:
    tokenizer, model = of_words(workspace)
    text, other = (str(workspace / f"{name}.jsonl") for name in ("train", "heldout"))
    said: list[str] = []
    facts = prune_checkpoint(
        Cut(str(model), workspace / "fewer", vocabulary=300, text=(text,), heldout=(other,)),
        said.append,
    )
    assert facts["before"]["vocabulary"] == len(tokenizer) > facts["after"]["vocabulary"] == 300
    saved = facts["before"]["hidden"] * (len(tokenizer) - 300) * 2
    assert facts["parameters"]["before"] - facts["parameters"]["after"] == saved
    assert {proof["outcome"] for proof in facts["proofs"]} == {"proved"} and len(
        facts["proofs"]
    ) > 3
    assert facts["vocabulary"]["heldout"]["after"] > facts["vocabulary"]["heldout"]["before"]
    assert "300 of 4" in kept_tokens(facts["vocabulary"])
    small = AutoTokenizer.from_pretrained(workspace / "fewer")
    again: Any = AutoModelForCausalLM.from_pretrained(workspace / "fewer")
    assert len(small) == 300 == again.config.vocab_size
    assert again.config.eos_token_id == small.eos_token_id
    prompt = small("The word", return_tensors="pt")["input_ids"]
    written = again.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert small.decode(written[0]).startswith("The word")


def test_a_target_counts_what_the_vocabulary_saves(workspace: Path) -> None:
    _, model = of_words(workspace)
    text = (str(workspace / "train.jsonl"),)
    settings: dict[str, Any] = {"text": text, "vocabulary": 320, "multiple": 8, "repair": False}
    facts = prune_checkpoint(
        Cut(str(model), workspace / "share", target=0.6, **settings), lambda text: None
    )
    whole, part = facts["parameters"]["before"], facts["parameters"]["after"]
    assert abs(part / (0.6 * whole) - 1) < 0.02
    assert facts["after"]["vocabulary"] < facts["before"]["vocabulary"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocabulary": 300}, "give it with --text"),
        ({"heldout": ("x",), "target": 0.5}, "add --vocabulary"),
        ({"vocabulary": 0}, "give it with --text"),
        ({"vocabulary": 0, "text": True}, r"vocabulary 0 is too few: .* nearest possible is 259"),
        ({"vocabulary": 20, "text": True}, r"too few: .* nearest possible is 259"),
        ({"vocabulary": 9999, "text": True}, r"too many: .* nearest possible is 4"),
        (
            {"vocabulary": 300, "text": True, "target": 0.5, "budget": "latency"},
            "give milliseconds a token",
        ),
        ({}, "or only --vocabulary 16384"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_one_line(
    workspace: Path, settings: dict[str, Any], said: str
) -> None:
    _, model = of_words(workspace)
    if "text" in settings:
        settings = settings | {"text": (str(workspace / "train.jsonl"),)}
    with pytest.raises(UsageError, match=said) as error:
        prune_checkpoint(Cut(str(model), workspace / "refused", **settings), lambda text: None)
    assert "\n" not in str(error.value)


def test_what_is_no_byte_pair_tokenizer_is_said_before_text_is_read(tmp_path: Path) -> None:
    """Reading would find that it has no end of text, which is not the reason. To see it fail: leave
    the tokenizer to `narrowed`."""
    folder = ENCODERS["write_encoder"](tmp_path / "encoder", "BertForMaskedLM")
    (tmp_path / "text.jsonl").write_text('{"text": "the cat sits"}\n')
    asked = Cut(str(folder), tmp_path / "x", vocabulary=30, text=(str(tmp_path / "text.jsonl"),))
    with pytest.raises(UsageError, match="is a WordLevel tokenizer. Only a byte-pair"):
        prune_checkpoint(asked, lambda text: None)


def of_words(workspace: Path) -> tuple[Any, Path]:
    """A model whose tokenizer knows words, and its folder."""
    folder = workspace / "words"
    if not folder.exists():
        SMALL["save"](folder, *SMALL["with_words"]())
    return AutoTokenizer.from_pretrained(folder), folder


@pytest.mark.parametrize(
    "name",
    ["BertForMaskedLM", "BertForSequenceClassification", "RobertaForMaskedLM"]
    + ["DistilBertForSequenceClassification", "DistilBertForTokenClassification"],
)
def test_an_encoder_is_cut_by_the_text_that_is_given(tmp_path: Path, name: str) -> None:
    """To see it fail: in candidates.candidate, load no encoders."""
    folder = ENCODERS["write_encoder"](tmp_path / "encoder", name)
    text = (str(tmp_path / "text.jsonl"),)
    settings: dict[str, Any] = {"multiple": 8, "shape": ("neurons=32", "layers=2")}
    asked = Cut(str(folder), tmp_path / "small", text=text, **settings)
    facts = prune_checkpoint(asked, lambda said: None)
    assert facts["after"]["neurons"] == 32 and facts["after"]["layers"] == 2
    assert {proof["outcome"] for proof in facts["proofs"]} <= {"proved", "skipped"}
    loaded = getattr(transformers, name).from_pretrained(tmp_path / "small")
    assert sum(one.numel() for one in loaded.parameters()) == facts["parameters"]["after"]
    for changes, said in (
        ({"text": ()}, "writes no text of its own: give calibration text with --text"),
        ({"depth": "perplexity"}, "predicts none: choose block_influence or norm_ratio"),
        ({"search": Search(), "shape": (), "target": 0.8, "multiple": 1}, "leave search out"),
    ):
        asked = Cut(str(folder), tmp_path / "no", **{"text": text, **settings, **changes})
        with pytest.raises(UsageError, match=said):
            prune_checkpoint(asked, lambda said: None)
