"""How likely a causal language model finds continuations of contexts."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nexus.batch import Targets
from nexus.errors import NexusError
from nexus.evaluation.tasks.encoding import Encoded, Encoder, Request
from nexus.evaluation.tasks.trie import Trie, attention
from nexus.kernels.chunked_head import Workspace, observe
from nexus.kernels.decoder import backbone
from nexus.kernels.lm_head import split_head
from nexus.objectives.observers import nll
from nexus.signals import Head, Headed, Scores, Support
from nexus.tokenizers import real_vocabulary

BATCH_TOKENS = 4096
"""Tokens of a batch, padding included: enough to keep the matrix products busy."""

_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-7}
_COARSE_TOLERANCE = 0.12
"""Relative error of hidden states that rounding explains in half precision."""


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation after its context."""

    log_probability: float
    """The sum over its tokens, in nats."""
    greedy: bool
    """Whether it is what greedy decoding writes: each of its tokens is the most likely one."""
    tokens: int
    characters: int
    bytes: int
    """Of its UTF-8."""


@dataclass(frozen=True)
class _Group:
    """The requests of one item, which often share their context."""

    number: int
    requests: tuple[Request, ...]
    encoded: tuple[Encoded, ...]
    trie: Trie


def likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: Sequence[Sequence[Request]],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[dict[int, list[Likelihood]]]:
    """The log-probability of every continuation, batch by batch, the longest groups first.

    A group's tokens lie in one row as a trie, so that its context is computed once. Where the model
    cannot be shown to keep the branches apart, every request has a row of its own, with the same
    result. Only the states that predict a token of a continuation enter the head, in fp32 and chunk
    by chunk. The model must be in eval mode; no gradient is computed.

    Args:
        model: a causal language model.
        tokenizer: its own.
        groups: what is asked together, such as the choices of one question.
        batch_tokens: at most so many tokens a batch, or one group.

    Yields:
        By number of the group, a likelihood for each of its requests.

    Raises:
        UsageError: a continuation is empty or does not fit into the model's window, or the
            tokenizer has ids that the model has not.
        NexusError: the model's output is not finite.
    """
    encoder = Encoder(model, tokenizer)
    scorer = _Scorer(model, real_vocabulary(tokenizer))
    made = [_grouped(number, group, encoder) for number, group in enumerate(groups)]
    made.sort(key=lambda group: (-len(group.trie), group.number))
    if branching := next((group for group in reversed(made) if group.trie.branches), None):
        scorer.prove(branching)
    for batch in _batches(made, batch_tokens):
        yield scorer(batch)


class _Scorer:
    """One model, asked batch by batch."""

    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        self._head: Head = split_head(model, vocabulary).head()
        self._backbone: Any = backbone(model)
        self._device, self._dtype = model.device, model.dtype
        self._workspace = Workspace()
        takes_masks = model.config.get_text_config()._attn_implementation in ("sdpa", "eager")
        takes_positions = "position_ids" in inspect.signature(self._backbone.forward).parameters
        self._shares = takes_masks and takes_positions

    def __call__(self, batch: Sequence[_Group]) -> dict[int, list[Likelihood]]:
        rows = [row for group in batch for row in self._rows(group)]
        hidden = self._hidden([trie for trie, _ in rows])
        at = [
            (row, path[index], encoded.tokens[index + 1])
            for row, (trie, asked) in enumerate(rows)
            for encoded, path in zip(asked, trie.paths, strict=True)
            for index in range(len(path) - encoded.scored, len(path))
        ]
        where = torch.tensor(at, device=self._device).unbind(1)
        scores = self._at(hidden[where[0], where[1]], where[2])
        return _told(batch, scores)

    @torch.no_grad()
    def prove(self, group: _Group) -> None:
        """Share contexts only if the states are those of each request alone."""
        if not self._shares:
            return
        together: list[Tensor] = []
        alone: list[Tensor] = []
        for shares, states in ((True, together), (False, alone)):
            self._shares = shares
            rows = self._rows(group)
            hidden = self._hidden([trie for trie, _ in rows])
            states += [
                hidden[row, path] for row, (trie, _) in enumerate(rows) for path in trie.paths
            ]
        ours, theirs = torch.cat(together).float(), torch.cat(alone).float()
        error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))
        self._shares = error <= _TOLERANCES.get(self._dtype, _COARSE_TOLERANCE)

    def _rows(self, group: _Group) -> list[tuple[Trie, tuple[Encoded, ...]]]:
        if self._shares:
            return [(group.trie, group.encoded)]
        return [(Trie([one.tokens[:-1]]), (one,)) for one in group.encoded]

    @torch.no_grad()
    def _hidden(self, tries: Sequence[Trie]) -> Float[Tensor, "rows width hidden"]:
        width = max(len(trie) for trie in tries)
        ids = torch.zeros(len(tries), width, dtype=torch.long)
        positions, mask = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, trie in enumerate(tries):
            ids[row, : len(trie)] = torch.tensor(trie.tokens)
            positions[row, : len(trie)] = torch.tensor(trie.positions)
            mask[row, : len(trie)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        if any(trie.branches for trie in tries):
            inputs["attention_mask"] = attention(tries, width, self._dtype)
            inputs["position_ids"] = positions
        on_device = {name: value.to(self._device) for name, value in inputs.items()}
        states: Tensor = self._backbone(**on_device, use_cache=False)[0]
        return states

    def _at(
        self, hidden: Float[Tensor, "n hidden"], tokens: Int[Tensor, " n"]
    ) -> Float[Tensor, "2 n"]:
        """Of each token its log-probability, and 1 where it is the most likely one."""
        nothing = torch.zeros_like(tokens)
        seen = observe(
            Headed(hidden.float(), self._head),
            None,
            Targets(tokens, nothing, nothing),
            [nll, _is_top],
            workspace=self._workspace,
        )
        return torch.stack([-seen[0], seen[1]]).double().cpu()


def _is_top(own: Scores, teacher: Scores | Support | None, targets: Targets) -> Float[Tensor, " n"]:
    return (own.logits.argmax(-1) == targets.tokens).float()


def _grouped(number: int, requests: Sequence[Request], encoder: Encoder) -> _Group:
    encoded = tuple(encoder(request) for request in requests)
    trie = Trie([one.tokens[:-1] for one in encoded])
    return _Group(number, tuple(requests), encoded, trie)


def _batches(groups: Sequence[_Group], most: int) -> Iterator[list[_Group]]:
    """Groups in their order, as many as stay below `most` tokens when padded to the longest."""
    batch: list[_Group] = []
    for group in groups:
        if batch and (len(batch) + 1) * len(batch[0].trie) > most:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _told(batch: Sequence[_Group], scores: Float[Tensor, "2 n"]) -> dict[int, list[Likelihood]]:
    if not bool(scores.isfinite().all()):
        raise NexusError(
            "The model's log-probabilities are not finite. It overflowed or is damaged: evaluate "
            "it in fp32."
        )
    found: dict[int, list[Likelihood]] = {group.number: [] for group in batch}
    start = 0
    for group in batch:
        for request, encoded in zip(group.requests, group.encoded, strict=True):
            part = scores[:, start : start + encoded.scored]
            start += encoded.scored
            found[group.number].append(
                Likelihood(
                    log_probability=float(part[0].sum()),
                    greedy=bool(part[1].all()),
                    tokens=encoded.scored,
                    characters=len(request.continuation),
                    bytes=len(request.continuation.encode()),
                )
            )
    return found
