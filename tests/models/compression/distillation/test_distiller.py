"""The distiller against the definition, computed in float64 from whole logits."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nexus.errors import UsageError
from nexus.models.compression.distillation import KnowledgeDistiller

PAIRS = [("llama", "llama"), ("gpt2", "gpt2"), ("opt", "opt"), ("llama", "qwen2")]
"""Teacher and student."""

Batch = dict[str, Tensor]
Gradients = dict[str, Tensor]


def reference(
    teachers: list[PreTrainedModel], student: PreTrainedModel, batch: Batch, T: float, alpha: float
) -> tuple[float, Gradients]:
    """alpha · CE + (1 - alpha) · T² · KL over the labels that count, in float64, and its gradient.

    Rows go through the models one by one and without padding: what padding must not change.
    """
    student = copy.deepcopy(student).double().train(student.training)
    student.zero_grad()
    total, count = torch.zeros((), dtype=torch.float64), 0
    for ids, labels, mask in zip(*batch.values(), strict=True):
        ids, labels = ids[mask == 1][None], labels[mask == 1][1:]
        kept = labels != -100
        with torch.no_grad():
            said = [copy.deepcopy(one).double()(input_ids=ids).logits[0, :-1] for one in teachers]
        z = student(input_ids=ids).logits[0, :-1][kept]
        p = torch.stack([torch.softmax(one[kept] / T, -1) for one in said]).mean(0)
        kl = (p * (p.log() - torch.log_softmax(z / T, -1))).sum(-1)
        ce = -torch.log_softmax(z, -1)[torch.arange(len(z)), labels[kept]]
        total = total + (alpha * ce + (1 - alpha) * T**2 * kl).sum()
        count += int(kept.sum())
    loss = total / count
    loss.backward()
    return loss.item(), gradients(student)


def gradients(model: nn.Module) -> Gradients:
    return {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


def assert_equal(ours: Gradients, theirs: Gradients, tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys() and ours
    largest = max(float(value.abs().max()) for value in theirs.values())
    for name, value in theirs.items():
        worst = float((ours[name].double() - value.double()).abs().max())
        assert worst <= tolerance * largest, name


def backward(distiller: KnowledgeDistiller, batch: Batch, **arguments: Any) -> float:
    distiller.module.student.zero_grad()
    loss = distiller.compute_loss(**batch, **arguments)
    assert loss.shape == () and loss.dtype == torch.float32
    loss.backward()
    return loss.item()


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize(("T", "alpha"), [(2.0, 0.5), (1.0, 0.0), (4.0, 0.1)])
def test_loss_and_gradient_are_those_of_the_definition(
    make_model: Any, padded: Batch, first: str, second: str, T: float, alpha: float
) -> None:
    teacher, student = make_model(first, layers=2, seed=1), make_model(second, seed=2)
    loss, expected = reference([teacher], student, padded, T, alpha)
    distiller = KnowledgeDistiller(teacher, student, temperature=T, alpha=alpha)
    assert backward(distiller, padded) == pytest.approx(loss, rel=1e-5)
    assert_equal(gradients(student), expected)
    assert not gradients(teacher)


def test_the_specifications_example_as_written(make_model: Any, padded: Batch) -> None:
    teacher, student = make_model(layers=2, seed=1), make_model(seed=2)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    dataloader = [padded] * 20
    distiller = KnowledgeDistiller(teacher=teacher, student=student, temperature=2.0, alpha=0.5)
    losses = []
    for batch in dataloader:
        loss = distiller.compute_loss(input_ids=batch["input_ids"], labels=batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_defaults_are_the_specifications(make_model: Any, padded: Batch) -> None:
    teacher, student = make_model(seed=1), make_model(seed=2)
    loss, _ = reference([teacher], student, padded, 2.0, 0.5)
    assert backward(KnowledgeDistiller(teacher, student), padded) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_the_side_and_the_amount_of_padding_change_nothing(
    make_model: Any, padded: Batch, family: str
) -> None:
    teacher, student = make_model(family, layers=2, seed=1), make_model(family, seed=2)
    distiller = KnowledgeDistiller(teacher, student)
    lengths = padded["attention_mask"].sum(1).tolist()
    left = {
        name: torch.stack([row.roll(9 - length) for row, length in zip(rows, lengths, strict=True)])
        for name, rows in padded.items()
    }
    fills = {"input_ids": 7, "labels": -100, "attention_mask": 0}
    wider = {
        name: nn.functional.pad(rows, (6, 0), value=fills[name]) for name, rows in left.items()
    }
    loss = backward(distiller, padded)
    expected = {name: weight.grad.clone() for name, weight in student.named_parameters()}
    for other in (left, wider):
        assert backward(distiller, other) == pytest.approx(loss, rel=1e-6)
        assert_equal(gradients(student), expected)


def test_several_teachers_are_the_mean_of_their_probabilities(
    make_model: Any, padded: Batch
) -> None:
    teachers = [make_model("llama", 1, 1), make_model("qwen2", 2, 2), make_model("gpt2", 1, 3)]
    student = make_model(seed=4)
    loss, expected = reference(teachers, student, padded, 2.0, 0.3)
    distiller = KnowledgeDistiller(teachers, student, temperature=2.0, alpha=0.3)
    assert backward(distiller, padded) == pytest.approx(loss, rel=1e-5)
    assert_equal(gradients(student), expected)


def test_a_list_of_one_teacher_is_that_teacher(make_model: Any, padded: Batch) -> None:
    teacher, student = make_model(seed=1), make_model(seed=2)
    alone = backward(KnowledgeDistiller(teacher, student), padded)
    assert backward(KnowledgeDistiller([teacher], student), padded) == alone
    for mean in ("probability", "logit"):
        same = KnowledgeDistiller([teacher, copy.deepcopy(teacher)], student, teacher_mean=mean)
        assert backward(same, padded) == pytest.approx(alone, rel=1e-5)


def test_the_teacher_is_frozen_stays_so_and_rests_at_alpha_1(
    make_model: Any, padded: Batch
) -> None:
    teacher, student = make_model(seed=1).train(), make_model(seed=2)
    ran = []
    distiller = KnowledgeDistiller(teacher, student, alpha=1.0)
    teacher.register_forward_pre_hook(lambda *_: ran.append("whole"))
    teacher.base_model.register_forward_pre_hook(lambda *_: ran.append("backbone"))
    loss = backward(distiller, padded)
    cross_entropy = student(**padded).loss
    assert loss == pytest.approx(cross_entropy.item(), rel=1e-5)
    assert not ran
    assert not any(weight.requires_grad for weight in teacher.parameters())
    teacher.train()
    backward(KnowledgeDistiller(teacher, student, alpha=0.99), padded)
    assert ran and not teacher.training


def test_without_labels_every_token_of_the_text_counts(make_model: Any, padded: Batch) -> None:
    distiller = KnowledgeDistiller(make_model(seed=1), make_model(seed=2), alpha=0.0)
    ids, mask = padded["input_ids"], padded["attention_mask"]
    unlabelled = backward(distiller, {"input_ids": ids, "attention_mask": mask})
    everything = {**padded, "labels": ids.masked_fill(mask == 0, -100)}
    assert unlabelled == pytest.approx(backward(distiller, everything), rel=1e-6)


def test_at_alpha_0_labels_say_only_where(make_model: Any, padded: Batch) -> None:
    distiller = KnowledgeDistiller(make_model(seed=1), make_model(seed=2), alpha=0.0)
    other = {**padded, "labels": torch.where(padded["labels"] == -100, -100, 5)}
    assert backward(distiller, padded) == backward(distiller, other)


def test_accumulated_micro_batches_are_one_batch(make_model: Any, padded: Batch) -> None:
    teacher, student = make_model(seed=1), make_model(seed=2)
    distiller = KnowledgeDistiller(teacher, student)
    whole = backward(distiller, padded)
    expected = {name: weight.grad.clone() for name, weight in student.named_parameters()}
    count = int((padded["labels"][:, 1:] != -100).sum())
    student.zero_grad()
    parts = [{name: rows[at : at + 2] for name, rows in padded.items()} for at in (0, 2)]
    losses = [distiller.compute_loss(**part, num_items_in_batch=count) for part in parts]
    for loss in losses:
        loss.backward()
    assert sum(loss.item() for loss in losses) == pytest.approx(whole, rel=1e-5)
    assert_equal(gradients(student), expected)


def test_a_batch_without_targets_costs_nothing(make_model: Any, padded: Batch) -> None:
    distiller = KnowledgeDistiller(make_model(seed=1), make_model(seed=2))
    empty = {**padded, "labels": torch.full_like(padded["labels"], -100)}
    assert backward(distiller, empty) == 0.0


def test_labels_beyond_the_vocabulary_never_reach_the_loss(make_model: Any, padded: Batch) -> None:
    """Break the last argument of `from_padded` to get a loss that is none, without a word."""
    distiller = KnowledgeDistiller(make_model(seed=1), make_model(seed=2))
    beyond = distiller.module.student.config.vocab_size
    labels = torch.where(padded["labels"] >= 0, beyond, padded["labels"])
    with pytest.raises(UsageError, match=f"labels hold {beyond}. Give token ids from 0"):
        distiller.compute_loss(**{**padded, "labels": labels})


def test_divergence_and_beta_are_arguments(make_model: Any, padded: Batch) -> None:
    teacher, student = make_model(seed=1), make_model(seed=2)

    def loss(**arguments: Any) -> float:
        return backward(KnowledgeDistiller(teacher, student, alpha=0.0, **arguments), padded)

    forward, reverse = loss(), loss(divergence="reverse_kl")
    assert not math.isclose(forward, reverse, rel_tol=1e-3)
    ends = [loss(divergence="jsd", beta=beta, normalize=True) for beta in (0.0, 1.0)]
    assert ends == pytest.approx([forward, reverse], rel=1e-5)
    with pytest.raises(UsageError, match="'beta' means nothing to divergence 'forward_kl'"):
        loss(beta=0.5)
    with pytest.raises(UsageError, match="did you mean 'forward_kl'"):
        loss(divergence="foward_kl")


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_0_to_1_is_refused(make_model: Any, alpha: float) -> None:
    with pytest.raises(UsageError, match=f"alpha is {alpha}.*between 0"):
        KnowledgeDistiller(make_model(seed=1), make_model(seed=2), alpha=alpha)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf")])
def test_a_temperature_that_is_not_positive_is_refused(make_model: Any, temperature: float) -> None:
    with pytest.raises(UsageError, match="'temperature' is"):
        KnowledgeDistiller(make_model(seed=1), make_model(seed=2), temperature=temperature)


def tokenizer_of(size: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    vocabulary = {f"w{number}": number for number in range(size)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, "w0")))


def test_heads_padded_to_different_sizes(make_model: Any, padded: Batch) -> None:
    """As 151,936 against 152,064 rows: what lies beyond the tokenizer has no probability."""
    teacher, student = make_model(seed=1, vocabulary=72), make_model(seed=2, vocabulary=64)
    with pytest.raises(UsageError, match="72, 64 rows.*tokenizer="):
        KnowledgeDistiller(teacher, student)
    real = tokenizer_of(60)
    distiller = KnowledgeDistiller(teacher, student, tokenizer=real)
    loss = backward(distiller, padded)
    grown = gradients(student)["lm_head.weight"]
    assert grown[:60].abs().sum(1).all() and not grown[60:].any()
    for model in (teacher, student):
        model.resize_token_embeddings(60)
    expected, _ = reference([teacher], student, padded, 2.0, 0.5)
    assert loss == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UsageError, match="head has 60 rows, but its tokenizer has ids up to 79"):
        KnowledgeDistiller(teacher, student, tokenizer=tokenizer_of(80))


def test_the_students_mode_and_type_stay_the_users(make_model: Any, padded: Batch) -> None:
    teacher, student = make_model(layers=2, seed=1), make_model(seed=2)
    loss, _ = reference([teacher], student, padded, 2.0, 0.5)
    student = student.bfloat16().train()
    distiller = KnowledgeDistiller(teacher.bfloat16(), student)
    assert student.training and student.dtype == torch.bfloat16
    assert backward(distiller, padded) == pytest.approx(loss, rel=0.03)
    assert student.lm_head.weight.grad.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_trained_and_nothing_else(make_model: Any, padded: Batch) -> None:
    from peft import LoraConfig, get_peft_model

    teacher, base = make_model(layers=2, seed=1), make_model(seed=2)
    expected, _ = reference([teacher], base, padded, 2.0, 0.5)
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    student = get_peft_model(base, config)
    loss = backward(KnowledgeDistiller(teacher, student), padded)
    assert loss == pytest.approx(expected, rel=1e-5)  # an adapter begins as nothing
    names = gradients(student)
    assert names and all("lora" in name for name in names)
    assert any("lm_head" in name for name in names)
