"""A continuation is as likely as the model says of it alone, whatever it is batched with."""

from __future__ import annotations

import functools
import string
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    MambaConfig,
    MptConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nexus.errors import NexusError, UsageError
from nexus.evaluation.mode import observing
from nexus.evaluation.tasks import likelihood
from nexus.evaluation.tasks.encoding import Request
from nexus.evaluation.tasks.likelihood import Likelihood, likelihoods

WORDS = st.text(st.sampled_from("ab c"), min_size=1, max_size=6).filter(str.strip)
GROUPS = st.lists(
    st.builds(
        lambda context, after: [Request(context, word) for word in after],
        WORDS,
        st.lists(WORDS, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=5,
)


def found(model: Any, tokenizer: Any, groups: Any, **settings: Any) -> list[list[Likelihood]]:
    with observing(model):
        parts = {
            number: said
            for batch in likelihoods(model, tokenizer, groups, **settings)
            for number, said in batch.items()
        }
    assert sorted(parts) == list(range(len(groups)))
    return [parts[number] for number in range(len(groups))]


def plainly(model: Any, tokenizer: Any, request: Request) -> tuple[float, bool]:
    """From the model's own logits of this text alone. A token is a byte, so the cut is clear."""
    kept = request.context.rstrip()
    ids = torch.tensor([tokenizer.encode(request.context + request.continuation)])
    with observing(model):
        says = model(input_ids=ids).logits[0].double().log_softmax(-1)
    start = len(kept.encode())
    said = says[start - 1 : -1]
    picked = said.gather(1, ids[0, start:, None])
    return float(picked.sum()), bool((said.argmax(-1) == ids[0, start:]).all())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=GROUPS, batch_tokens=st.integers(1, 60))
def test_it_is_that_of_the_text_alone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    groups: list[list[Request]],
    batch_tokens: int,
) -> None:
    told = found(model, tokenizer, groups, batch_tokens=batch_tokens)
    for group, said in zip(groups, told, strict=True):
        for request, one in zip(group, said, strict=True):
            expected, greedy = plainly(model, tokenizer, request)
            assert one.log_probability == pytest.approx(expected, abs=1e-4)
            assert one.greedy == greedy


def test_greedy_means_that_the_model_writes_it(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    contexts = [f"The letter {letter}" for letter in string.ascii_letters]
    written: dict[str, str] = {}
    for context in contexts:
        ids = torch.tensor([tokenizer.encode(context)])
        after: Any = cast(Any, model).generate(ids, do_sample=False, max_new_tokens=1)
        text = str(tokenizer.decode(after[0, ids.shape[1] :]))
        if text.isascii() and text.isprintable() and len(text) == 1:
            written[context] = text
    assert len(written) > 3
    groups = [
        [Request(c, text), Request(c, text + "~"), Request(c, "~")] for c, text in written.items()
    ]
    halves = 0
    for group, (first, second, third) in zip(groups, found(model, tokenizer, groups), strict=True):
        assert first.greedy and not third.greedy
        assert second.greedy == plainly(model, tokenizer, group[1])[1]
        halves += not second.greedy
    assert halves, "the first token is the likeliest, the second is not"


def test_lengths_are_those_of_the_continuation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    one = found(model, tokenizer, [[Request("Cup of", " thé")]])[0][0]
    assert (one.characters, one.bytes, one.tokens) == (4, 5, 5)


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=259, n_embd=32, n_layer=2, n_head=2, n_positions=64),
        BloomConfig(vocab_size=259, hidden_size=32, n_layer=2, n_head=2),  # takes no positions
        MptConfig(vocab_size=259, d_model=32, n_layers=2, n_heads=2, max_seq_len=64),
        MambaConfig(vocab_size=259, hidden_size=16, num_hidden_layers=2, state_size=4),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.filterwarnings("ignore")
def test_every_architecture_gives_what_it_says_of_the_text_alone(
    tokenizer: PreTrainedTokenizerBase, config: Any
) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    groups = [
        [Request("abc", " d"), Request("abc", " ef"), Request("abc", " eg")],
        [Request("a longer one", "!")],
    ]
    for group, said in zip(groups, found(model, tokenizer, groups), strict=True):
        for request, one in zip(group, said, strict=True):
            expected, _ = plainly(model, tokenizer, request)
            assert one.log_probability == pytest.approx(expected, abs=1e-3)


def test_a_context_is_read_once(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    group = [Request("a long context", " " + word) for word in ("one", "two", "six")]
    with _positions(model) as read:
        found(model, tokenizer, [group])
    assert read[-1] == len("a long context ") + 3 * 2, "three branches: on, tw, si"


def test_a_model_that_mixes_the_branches_is_noticed_and_asked_one_text_at_a_time(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """It forgets what may not be seen: with several branches in a row that changes its states."""
    forward: Any = model.get_decoder().forward

    @functools.wraps(forward)
    def forgets(*args: Any, attention_mask: Tensor, **inputs: Any) -> Any:
        return forward(*args, **inputs)

    cast(Any, model.get_decoder()).forward = forgets
    group = [Request("abc", " xyz"), Request("abc", " uvw")]
    with _positions(model) as read:
        told = found(model, tokenizer, [group])[0]
    assert read[-1] == 2 * len("abc xy")
    for request, one in zip(group, told, strict=True):
        expected, _ = plainly(model, tokenizer, request)
        assert one.log_probability == pytest.approx(expected, abs=1e-4)


def test_a_model_that_takes_no_positions_is_given_none(tokenizer: PreTrainedTokenizerBase) -> None:
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=259, hidden_size=32, n_layer=2, n_head=2)
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    group = [Request("abc", " xyz"), Request("abc", " uvw")]
    with _positions(model, model.transformer) as read:
        found(model, tokenizer, [group])
    assert read == [2 * len("abc xy")], "nothing had to be proved"


@contextmanager
def _positions(model: Any, part: Any = None) -> Iterator[list[int]]:
    """How many positions each forward pass reads, those of the proof first."""
    read: list[int] = []

    def note(module: Any, args: Any, inputs: dict[str, Any]) -> None:
        read.append(inputs["input_ids"].numel())

    hook = (part or model.get_decoder()).register_forward_pre_hook(note, with_kwargs=True)
    yield read
    hook.remove()


def test_only_states_that_predict_a_continuation_enter_the_head(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    observe = likelihood.observe

    def noting(headed: Any, *rest: Any, **settings: Any) -> Tensor:
        rows.append(len(headed))
        return observe(headed, *rest, **settings)

    monkeypatch.setattr(likelihood, "observe", noting)
    groups = [[Request("x" * 200, " yes"), Request("x" * 200, " no")], [Request("z", "!")]]
    found(model, tokenizer, groups)
    assert sum(rows) == 4 + 3 + 1


def test_a_model_that_overflows_is_named(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NexusError, match="log-probabilities are not finite"):
        found(model, tokenizer, [[Request("a", "b")]])


def test_a_tokenizer_of_another_model_is_named(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    tokenizer.add_tokens(["one more"])
    with pytest.raises(UsageError, match="259 rows, but the tokenizer has 260 ids"):
        found(model, tokenizer, [[Request("a", "b")]])
