"""Several texts in one row of a batch, with what they begin with in common computed once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

Tokens = tuple[int, ...]


class Trie:
    """Token sequences that share their beginnings; every node is a token after all before it.

    A causal model's state after a token depends on the tokens before it alone. So the state at a
    node is the same for all texts through it, if the node sees its ancestors and nothing else.
    """

    def __init__(self, texts: Sequence[Tokens]) -> None:
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.paths: list[list[int]] = []
        """Of each text, the node of each of its tokens."""
        self._parents: list[int] = []
        children: dict[tuple[int, int], int] = {}
        for text in texts:
            node, path = -1, []
            for position, token in enumerate(text):
                if (child := children.get((node, token))) is None:
                    child = children[node, token] = len(self.tokens)
                    self.tokens.append(token)
                    self.positions.append(position)
                    self._parents.append(node)
                node = child
                path.append(node)
            self.paths.append(path)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branches(self) -> bool:
        """Whether it is more than one text after the other."""
        return self._parents != list(range(-1, len(self) - 1))

    def visible(self) -> Bool[ndarray, "nodes nodes"]:
        """True where the node of the row sees the node of the column: itself and its ancestors."""
        seen = np.eye(len(self), dtype=bool)
        for node, parent in enumerate(self._parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen


def attention(
    tries: Sequence[Trie], width: int, dtype: torch.dtype
) -> Float[Tensor, "rows 1 width width"]:
    """What is added to attention scores: 0 where seen, else very small.

    Padding, on the right, sees itself: of a row that sees nothing no softmax can be taken.
    """
    seen = torch.eye(width, dtype=torch.bool).expand(len(tries), width, width).clone()
    for row, trie in enumerate(tries):
        seen[row, : len(trie), : len(trie)] = torch.from_numpy(trie.visible())
    added = torch.zeros(seen.shape, dtype=dtype)
    return added.masked_fill_(~seen, torch.finfo(dtype).min).unsqueeze(1)
