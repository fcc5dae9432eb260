"""Where memories stand in a row, by hand."""

import torch

from model.compressor.packing import pack, spans

CPU = torch.device("cpu")


def test_spans_of_an_utterance():
    assert spans(10, 4) == [4, 4, 2]
    assert spans(8, 4) == [4, 4]  # a memory at the end is the one that stands there already
    assert spans(3, 4) == [3] and spans(1, 1) == [1]
    assert spans(300, None) == [300]


def test_a_memory_after_every_two_tokens_and_at_the_end():
    """t t M t t M t M | t t M for the first dialogue's two utterances, t t M t M for the second's one."""
    dialogues = [[torch.arange(10, 15), torch.arange(20, 22)], [torch.arange(30, 33)]]
    packed = pack(dialogues, 2, CPU)
    assert packed.ids.tolist() == [10, 11, 12, 13, 14, 20, 21, 30, 31, 32]
    assert packed.covered == [2, 2, 1, 2, 2, 1]
    assert packed.of_utterance == [3, 1, 2] and packed.of_dialogue == [4, 2]
    assert packed.owner.tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    assert packed.position.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]
    assert packed.row.tolist() == [0, 0, 0, 0, 1, 1]
    assert packed.place.tolist() == [2, 5, 7, 10, 2, 4]
    rows = packed.laid_out(packed.ids[:, None].float(), torch.tensor([-1.0]))[..., 0].tolist()
    assert rows[0] == [10, 11, -1, 12, 13, -1, 14, -1, 20, 21, -1]
    assert rows[1] == [30, 31, -1, 32, -1, 0, 0, 0, 0, 0, 0]


def test_one_memory_an_utterance_and_a_dialogue_without_any():
    packed = pack([[torch.arange(3), torch.arange(2)], [], [torch.arange(1)]], None, CPU)
    assert packed.covered == [3, 2, 1]
    assert packed.of_utterance == [1, 1, 1] and packed.of_dialogue == [2, 0, 1]
    assert packed.row.tolist() == [0, 0, 2] and packed.place.tolist() == [3, 6, 1]
    rows = packed.laid_out(torch.ones(6, 2), torch.full((2,), 5.0))
    assert rows.shape == (3, 7, 2) and not rows[1].any()
