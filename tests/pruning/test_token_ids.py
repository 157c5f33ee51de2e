"""Ids that configurations name."""

from __future__ import annotations

from transformers import GenerationConfig, LlamaConfig

from nexus.pruning.token_ids import named_ids, renumber


def test_every_id_gets_its_new_number_lists_of_them_too() -> None:
    config = LlamaConfig(bos_token_id=5, eos_token_id=[7, 9], pad_token_id=None)
    generation = GenerationConfig(eos_token_id=[9, 7], suppress_tokens=[8], bad_words_ids=[[5, 7]])
    assert named_ids(config) == {5, 7, 9}
    assert named_ids(generation) == {5, 7, 8, 9}
    places = {5: 0, 7: 1, 8: 2, 9: 3}
    renumber(config, places)
    renumber(generation, places)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (0, [1, 3], None)
    assert generation.eos_token_id == [3, 1]
    assert (generation.suppress_tokens, generation.bad_words_ids) == ([2], [[0, 1]])


def test_an_id_that_no_token_had_is_taken_out() -> None:
    config = LlamaConfig(bos_token_id=3, eos_token_id=[4, 99], pad_token_id=99)
    renumber(config, {3: 1, 4: 2})
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, [2], None)
    config = LlamaConfig(pad_token_id=-1)
    renumber(config, {3: 1})
    assert config.pad_token_id == -1


def test_a_sequence_that_lost_a_token_is_no_longer_asked_for() -> None:
    """To see it fail: in token_ids._moved, leave `sequence` out."""
    config = GenerationConfig(
        bad_words_ids=[[10, 11], [12], [13]], force_words_ids=[[[10], [12]], [[11]], [10, 13]]
    )
    renumber(config, {10: 0, 13: 1})
    assert config.bad_words_ids == [[1]]
    assert config.force_words_ids == [[[0]], [0, 1]]
    config = GenerationConfig(bad_words_ids=[[12]], suppress_tokens=[11, 13])
    renumber(config, {10: 0, 13: 1})
    assert (config.bad_words_ids, config.suppress_tokens) == (None, [1])


def test_biases_go_with_their_sequences() -> None:
    pairs = [[[10], 2.0], [[10, 13], -1.0], [[10, 12], 5.0]]
    for biases in (pairs, {tuple(ids): bias for ids, bias in pairs}):
        config = GenerationConfig(sequence_bias=biases)
        assert named_ids(config) >= {10, 12, 13}
        renumber(config, {10: 0, 13: 1})
        assert config.sequence_bias == [[[0], 2.0], [[0, 1], -1.0]]
        config.validate()
