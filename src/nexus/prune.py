"""nexus prune, as a command: light to import, so that --help is instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from nexus.visible import visible


def prune(
    model: tyro.conf.Positional[str],
    /,
    out: Path,
    target_params: float | None = None,
    target: float | None = None,
    budget: str = "parameters",
    shape: tuple[str, ...] = (),
    text: tuple[str, ...] = (),
    vocabulary: int | Literal["used"] | None = None,
    heldout: tuple[str, ...] = (),
    strategy: str = "activation",
    depth: str | None = None,
    axes: tuple[str, ...] = ("neurons", "expert_neurons", "hidden", "layers"),
    multiple: int = 32,
    repair: bool = True,
    norms: str = "rescaled",
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "auto",
    aggregate: tuple[str, ...] = ("mean", "l2"),
    scores: Path | None = None,
    calibration_tokens: int | None = None,
    seed: int = 0,
    search: bool = False,
    candidates: int | None = None,
    search_tokens: int | None = None,
    json: bool = False,
) -> None:
    """Cut a model to any size: its most important layers, channels, neurons and heads.

    What comes out is an ordinary checkpoint, proved on the way; train it with nexus distill.

    Example: nexus prune Qwen/Qwen3-1.7B --target-params 1.2e9 --text train.jsonl --out small

    Args:
        model: A folder, a name on the hub or a GGUF file.
        out: Where to; must be empty or not exist.
        target_params: How many parameters in all, within 2 %.
        target: Or so much of another budget; up to 1, a share of what the model takes.
        budget: What target counts: parameters, without_embeddings, bytes, flops or latency, which
            is milliseconds a token, measured on this machine.
        shape: Or the very shape: neurons=896 layers=24.
        text: Files of calibration text (JSONL or parquet); without, the model writes its own.
        vocabulary: How many tokens to keep, those that the text uses most first, or used: all that
            it uses and what they are made of. Needs a byte-pair tokenizer, which gets smaller with
            the model.
        heldout: Files of other text, to measure how many more tokens it takes then.
        strategy: How importance is told: activation, weighted, taylor, magnitude, random or
            reversed.
        depth: How layers are told apart: block_influence, perplexity, contiguous or norm_ratio;
            unless given, by importance, or otherwise if a trial on the text clearly says so.
        axes: Which sizes a target may change.
        multiple: Of which neurons and hidden channels are multiples.
        repair: Refit what is left on the text.
        norms: What becomes of norms' weights where hidden channels go: rescaled by
            sqrt(all / kept), or measured on the text.
        dtype: What weights are held and written in; auto is what they were saved in.
        aggregate: How activations are summed up, over the tokens of a row and over rows: mean, l2
            or variance each.
        scores: A file to keep importance in, or to take it from, for any other target.
        calibration_tokens: How much of the text importance and refitting look at; 24,000 unless
            given.
        seed: Of the model's own text, and of the strategy random.
        search: Tell several shapes for the target apart by short distillation on the text.
        candidates: How many shapes a search distils, the best as cut of twice as many; 8 unless
            given.
        search_tokens: How many tokens it distils in all, over all candidates; 200,000 unless given.
        json: Print one JSON object instead of a line.
    """
    from nexus.pruned import Cut, prune_checkpoint, searching

    asked = Cut(
        model, out, target_params, target, budget, shape, text, strategy, depth, axes, multiple,
        repair, dtype, aggregate, scores, searching(search, candidates, search_tokens),
        vocabulary=vocabulary, heldout=heldout, norms=norms,
        calibration_tokens=calibration_tokens, seed=seed,
    )  # fmt: skip
    facts = prune_checkpoint(asked, say)
    if json:
        from json import dumps

        print(dumps(facts, indent=2))
    else:
        if facts["search"]:
            print(ranking_table(facts["search"]))
        before, after = (facts["parameters"][name] for name in ("before", "after"))
        print(f"{out}  {after:,} of {before:,} parameters{_met(facts['target'])}")
        if facts["vocabulary"]:
            print(kept_tokens(facts["vocabulary"]))


def ranking_table(search: dict[str, Any]) -> str:
    """Of the candidates, the divergence from the teacher and the place at every rung."""
    rungs = search["rungs"]
    varied = [
        axis
        for axis in search["candidates"][0]
        if len({one[axis] for one in search["candidates"]}) > 1
    ]
    heads = [f"{rung['tokens']:,} tokens" if rung["tokens"] else "as cut" for rung in rungs]
    lines = [["nats a token from the teacher (place)", *heads]]
    for number, sizes in enumerate(search["candidates"]):
        named = ", ".join(f"{axis}={sizes[axis]}" for axis in varied)
        place = str(number)
        cells = [
            f"{rung['divergence'][place]:.4f} ({rung['rank'][place]})"
            if place in rung["rank"]
            else "–"
            for rung in rungs
        ]
        lines.append([named + (" *" if number == search["winner"] else ""), *cells])
    for name, key in (("order kept until the next (Spearman)", "next"), ("until the last", "last")):
        told = [one[key] for one in search["spearman"]]
        lines.append([name, *("–" if one is None else f"{one:.2f}" for one in told), ""])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def kept_tokens(facts: dict[str, Any]) -> str:
    """What of a vocabulary is kept, and what that costs."""
    corpus, heldout = facts["corpus"], facts["heldout"]
    told = f"{facts['after']:,} of {facts['before']:,} tokens, of which the text uses "
    told += f"{facts['used']:,}; {corpus['share']:.2%} of its bytes are encoded as before"
    if heldout:
        more = heldout["after"] / max(1, heldout["before"]) - 1
        told += f"; of the held-out text {heldout['share']:.2%}, in {more:.2%} more tokens"
    return told


def _met(target: dict[str, Any] | None) -> str:
    """What was reached of a budget other than parameters."""
    if target is None or target["budget"] == "parameters":
        return ""
    taken, wanted, whole = (target[name] for name in ("taken", "wanted", "whole"))
    return f", {taken:,.6g} {target['unit']} for a target of {wanted:,.6g} ({whole:,.6g} before)"


def say(text: str) -> None:
    """Tell whoever waits, once for all processes."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(visible(text), file=sys.stderr, flush=True)
