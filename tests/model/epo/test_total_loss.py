"""EPO's total loss and all its figures by hand, for a whole batch and for a part of one."""

import math

import pytest
import torch

from model.epo.loss import BatchFraction, PairLogProbs, epo_loss, joined, pair_log_probs, total_loss

PAIRS = PairLogProbs(torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -2.0, -3.0]), torch.tensor(-1.25))
"""Of three pairs the first and third are ranked right; of the second both replies are equally likely."""
LOSSES = [math.log1p(math.exp(-0.5)), math.log1p(math.exp(0.5)), math.log1p(math.exp(-4.5))]
"""beta 2, gamma 0.5: the margins less gamma are 0.5, -0.5 and 4.5."""


def test_each_pairs_loss_and_rewards():
    losses, chosen, rejected = epo_loss(PAIRS.chosen, PAIRS.rejected, 2.0, 0.5)
    assert losses.tolist() == pytest.approx(LOSSES)
    assert chosen.tolist() == [-2, -4, -1] and rejected.tolist() == [-3, -4, -6]


@pytest.mark.parametrize("pairs, tokens", [(1.0, 1.0), (0.75, 0.6)])
def test_every_figure_is_the_parts_share_of_the_batchs(pairs, tokens):
    value, logs = total_loss(PAIRS, 2.0, 0.5, 3.0, BatchFraction(pairs, tokens))
    epo, nll = pairs * sum(LOSSES) / 3, tokens * 1.25
    assert value.item() == pytest.approx(epo + 3 * nll)
    assert logs == {
        "epo": pytest.approx(epo),
        "nll": pytest.approx(nll),
        "reward_chosen": pytest.approx(pairs * -7 / 3),
        "reward_rejected": pytest.approx(pairs * -13 / 3),
        "margin": pytest.approx(pairs * 2),
        "accuracy": pytest.approx(pairs * 2 / 3),  # equally likely is not ranked right
    }


def test_without_a_share_it_is_the_whole():
    assert total_loss(PAIRS, 2.0, 0.5, 3.0)[1] == total_loss(PAIRS, 2.0, 0.5, 3.0, BatchFraction(1.0, 1.0))[1]


def test_batches_joined_weigh_their_tokens():
    one = PairLogProbs(torch.tensor([-1.0]), torch.tensor([-2.0]), torch.tensor(-1.0))
    both = joined([one, PAIRS], [1, 3])
    assert both.chosen.tolist() == [-1, -1, -2, -0.5] and both.rejected.tolist() == [-2, -1.5, -2, -3]
    assert both.true_token_mean.item() == pytest.approx((-1.0 - 3 * 1.25) / 4)
    assert joined([PAIRS], [7]).true_token_mean.item() == pytest.approx(-1.25)


def test_replies_that_do_not_pair_up_are_refused():
    ids = torch.tensor([5, 2])
    with pytest.raises(ValueError, match="shorter|longer"):
        pair_log_probs(None, [torch.zeros(3, 8)] * 2, [ids, ids], [ids])
