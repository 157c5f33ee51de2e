"""Norms over fewer channels: what they are multiplied with, whatever is padded or batched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from nexus.batch import Batch
from nexus.errors import UsageError
from nexus.pruning.activations import norms
from nexus.pruning.families import family_of
from nexus.pruning.norms import fit_norms, norm_factors
from nexus.pruning.prune import prune
from nexus.pruning.sizes import Sizes
from nexus.pruning.slice import Kept, cut

Rows = Callable[..., Batch]
Small = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_a_factor_is_the_mean_of_what_the_norms_say_otherwise(
    kind: str, small: Small, rows: Rows
) -> None:
    """Of the first norm, whose input is the embedding: by the definition, token by token."""
    model, hidden = small(kind), torch.tensor([0, 2, 3, 5, 8, 9, 11, 12])
    batch = rows(9, 9)
    name, first = next(iter(norms(model, family_of(model)).items()))
    seen: list[torch.Tensor] = []
    handle = first.register_forward_hook(lambda _, args, output: seen.append(args[0].double()))
    with torch.no_grad():
        model(input_ids=batch.input_ids)
    handle.remove()
    stream = seen[0]
    whole, kept = stream, stream[..., hidden]
    if kind == "gpt2":
        whole, kept = (one - one.mean(-1, keepdim=True) for one in (whole, kept))
    ratio = kept.square().mean(-1).sqrt() / whole.square().mean(-1).sqrt()
    found = norm_factors(model, hidden, [batch])
    assert found[name] == pytest.approx(ratio.mean().item(), rel=1e-5)
    assert found.keys() == norms(model, family_of(model)).keys()


def test_pads_and_batches_do_not_matter(small: Small, rows: Rows) -> None:
    """To see it fail: in norm_factors, look at all positions, not at those inside."""
    model, hidden, batch = small(), torch.arange(0, 16, 2), rows(9, 5)
    whole = norm_factors(model, hidden, [batch])
    filled = replace(batch, input_ids=torch.where(batch.documents < 0, 7, batch.input_ids))
    single = [
        replace(batch, **{n: v[row : row + 1] for n, v in vars(batch).items()}) for row in (0, 1)
    ]
    for other in ([filled], single):
        assert norm_factors(model, hidden, other) == pytest.approx(whole, rel=1e-5)


def test_where_nothing_of_the_stream_goes_nothing_changes(small: Small, rows: Rows) -> None:
    model = small()
    for kept in (Kept(), Kept(hidden=torch.randperm(16))):
        other = cut(model, kept)
        before = {name: value.clone() for name, value in other.state_dict().items()}
        fit_norms(other, model, kept, [rows(9)])
        assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_channels_that_are_zero_make_the_very_factor_of_rescaling(
    kind: str, small: Small, rows: Rows
) -> None:
    """Where the embedding is silent, the first norm's measured factor is sqrt(all / kept)."""
    model, hidden = small(kind), torch.arange(8)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 8:] = 0  # type: ignore[no-untyped-call]
    narrow = cut(model, Kept(hidden=hidden))
    name, first = next(iter(norms(narrow, family_of(narrow)).items()))
    before = first.weight.clone()  # type: ignore[operator]
    fit_norms(narrow, model, Kept(hidden=hidden), [rows(9, 7)])
    assert torch.allclose(first.weight, before, atol=1e-4)  # type: ignore[arg-type]


def test_a_prune_measures_norms_after_its_proof_and_needs_text(small: Small, rows: Rows) -> None:
    model = small()
    sizes = replace(Sizes.of(model.config, family_of(model)), hidden=8)
    plain, fitted = (
        prune(model, [rows(9, 7)], sizes=sizes, repair=False, norms=way)  # type: ignore[arg-type]
        for way in ("rescaled", "measured")
    )
    assert all(proof.outcome == "proved" for proof in fitted.findings)
    last = "model.norm.weight"
    assert not torch.equal(fitted.model.state_dict()[last], plain.model.state_dict()[last])
    with pytest.raises(UsageError, match="norms: measured looks at calibration text"):
        prune(model, strategy="magnitude", sizes=sizes, repair=False, norms="measured")
