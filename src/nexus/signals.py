"""Signals: what a model reveals on a batch. Distributions over the next token live on a support."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Mean = Literal["probability", "logit"]
"""How several distributions are averaged: their probabilities, or their logits."""


class Signal(Flag):
    """Kinds of signal. A teacher fits an objective if it provides all that the objective needs."""

    NONE = 0
    DISTRIBUTION = auto()
    """The next token's distribution on some support."""
    FULL_VOCABULARY = auto()
    """The support is the whole vocabulary."""
    TOKEN_LOGPROBS = auto()
    HIDDEN = auto()
    ATTENTION = auto()
    TEXT = auto()

    @property
    def names(self) -> str:
        return ", ".join(str(signal.name) for signal in self) or "nothing"


@dataclass(frozen=True)
class Finish:
    """What a head does after its matrix product: `cap(scale · (products + bias))`, in fp32."""

    scale: float = 1.0
    softcap: float | None = None
    """Gemma's soft cap c: `c · tanh(z / c)`."""

    def __call__(
        self, products: Float[Tensor, "n v"], bias: Float[Tensor, " v"] | None = None
    ) -> Float[Tensor, "n v"]:
        logits = products.float()
        if bias is not None:
            logits = logits + bias.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


@dataclass(frozen=True)
class Head:
    """A language-model head: `logits = finish(h Wᵀ, b)`, over the real vocabulary only.

    `vocabulary` is the number of rows that stand for tokens; 0 means all of them. Rows of padding
    beyond it are never multiplied, which gives them probability zero and no gradient.
    """

    weight: Float[Tensor, "padded hidden"]
    bias: Float[Tensor, " padded"] | None = None
    finish: Finish = Finish()
    vocabulary: int = 0

    def __post_init__(self) -> None:
        if self.vocabulary == 0:
            object.__setattr__(self, "vocabulary", self.weight.shape[0])

    @property
    def rows(self) -> Float[Tensor, "v hidden"]:
        return self.weight[: self.vocabulary]

    @property
    def biases(self) -> Float[Tensor, " v"] | None:
        return None if self.bias is None else self.bias[: self.vocabulary]

    def logits(self, hidden: Float[Tensor, "n hidden"]) -> Float[Tensor, "n v"]:
        """Finished fp32 logits of a few positions. For many, use the chunked head."""
        return self.finish(hidden @ self.rows.to(hidden.dtype).t(), self.biases)


class Scores:
    """A distribution over the whole vocabulary, as logits with their normalisers by temperature.

    The normaliser at T is logsumexp(z / T). A kernel gives those that it has computed, with the
    logits that they belong to; any other is computed when it is asked for. Logits that come alone
    are taken relative to the largest of their row, so that large ones do not cost digits.
    """

    def __init__(
        self, logits: Float[Tensor, "n v"], normalizers: Mapping[float, Tensor] | None = None
    ) -> None:
        self._is_relative = normalizers is None
        if normalizers is None:
            logits = logits - logits.detach().amax(-1, keepdim=True)
        self.logits = logits
        self._normalizers = dict(normalizers or {})

    def normalizer(self, temperature: float = 1.0) -> Float[Tensor, " n"]:
        if temperature not in self._normalizers:
            self._normalizers[temperature] = torch.logsumexp(self.logits / temperature, dim=-1)
        return self._normalizers[temperature]

    def log_probs(self, temperature: float = 1.0) -> Float[Tensor, "n v"]:
        """Log-probabilities of the distribution softened by `temperature`."""
        return self.logits / temperature - self.normalizer(temperature).unsqueeze(-1)

    def log_and_probs(self) -> tuple[Float[Tensor, "n v"], Float[Tensor, "n v"]]:
        """Log-probabilities and probabilities at temperature 1, in memory of their own.

        Exponentials are taken once, where logits are relative to the largest of their row.
        """
        if not self._is_relative:
            log_probs = self.log_probs()
            own = log_probs.clone() if log_probs is self.logits else log_probs
            return own, own.exp()
        shares = self.logits.exp()
        total = shares.sum(-1)
        self._normalizers.setdefault(1.0, total.log())
        log_probs = self.logits - self._normalizers[1.0].unsqueeze(-1)
        return log_probs, shares.div_(total.unsqueeze(-1))

    def detach(self) -> Scores:
        normalizers = {t: value.detach() for t, value in self._normalizers.items()}
        return Scores(self.logits.detach(), normalizers)


class MixedScores(Scores):
    """Several distributions averaged with shares: their probabilities, or their logits.

    Probabilities are averaged after softening: at every temperature it is the mean of the members
    softened by it. Averaged logits are the normalised geometric mean (the barycentre of
    reverse KL), which suits members that are alike and fails where one is badly wrong.
    """

    def __init__(self, members: Sequence[Scores], shares: Sequence[float], mean: Mean) -> None:
        self._members, self._shares = members, shares
        if mean == "logit":
            pairs = zip(members, shares, strict=True)
            weighted = torch.stack([share * member.logits for member, share in pairs])
            super().__init__(weighted.sum(0))
        else:
            super().__init__(self._mean_log_probs(1.0), {})
        self._mean = mean

    def log_probs(self, temperature: float = 1.0) -> Float[Tensor, "n v"]:
        if self._mean == "logit":
            return super().log_probs(temperature)
        return self.logits if temperature == 1.0 else self._mean_log_probs(temperature)

    def _mean_log_probs(self, temperature: float) -> Float[Tensor, "n v"]:
        pairs = zip(self._members, self._shares, strict=True)
        parts = (member.log_probs(temperature) + math.log(share) for member, share in pairs)
        return functools.reduce(torch.logaddexp, parts)


class Distribution(ABC):
    """What a model says about the next token at each of n target positions."""

    @abstractmethod
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Support(Distribution):
    """Log-probabilities written out on k ids of the vocabulary, at temperature 1.

    `rest` is the log of the mass outside the k ids (the tail bucket), which are then all different.
    Without it the k values are an unbiased estimate of mass one, as drawn by random sampling
    (arXiv:2503.16870); rows that drew fewer ids are filled up with a log-probability of -inf.
    """

    log_probs: Float[Tensor, "n k"]
    ids: Int[Tensor, "n k"]
    rest: Float[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return self.log_probs.shape[0]

    def part(self, start: int, stop: int) -> Support:
        return Support(
            self.log_probs[start:stop],
            self.ids[start:stop],
            None if self.rest is None else self.rest[start:stop],
        )


@dataclass(frozen=True)
class Headed(Distribution):
    """A distribution that is not written out: final hidden states and the head to be applied."""

    hidden: Float[Tensor, "n hidden"]
    head: Head

    def __len__(self) -> int:
        return self.hidden.shape[0]


@dataclass(frozen=True)
class Mixture(Distribution):
    """Several models' distributions, to be averaged where they are written out, chunk by chunk."""

    members: tuple[Headed, ...]
    shares: tuple[float, ...]
    """Positive, with sum one."""
    mean: Mean = "probability"

    def __len__(self) -> int:
        return len(self.members[0])


@dataclass(frozen=True)
class Dense(Distribution):
    """Logits or log-probabilities over the whole vocabulary, written out. For small things."""

    logits: Float[Tensor, "n v"]

    def __len__(self) -> int:
        return self.logits.shape[0]


@dataclass(frozen=True)
class Signals:
    """What a model revealed on one batch, at the target positions in row-major order."""

    distribution: Distribution | None = None
