"""The EPO loss: the mean log-likelihood of a reply as its reward, two replies ranked with a margin.

Paper, equations 1 and 2; the same as SimPO (Meng et al. 2024). Knows nothing of data, adapters or emotions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.branches import branched_log_probs
from model.llm import mean_by_row


@dataclass(frozen=True)
class PairLogProbs:
    """chosen, rejected [B]: mean log-probability of a reply's tokens, end of turn included.

    chosen_token_mean: mean over all tokens of all chosen replies, a scalar.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_token_mean: Tensor


@dataclass(frozen=True)
class BatchFraction:
    """What some pairs are of a batch: of its pairs, and of the tokens of its true replies."""

    pairs: float = 1.0
    tokens: float = 1.0


WHOLE = BatchFraction()


def epo_loss(chosen: Tensor, rejected: Tensor, beta: float, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Equation 2: -log sigmoid(r(y_a) - r(y_i) - gamma) for each pair, with r = beta * mean log-likelihood.

    chosen, rejected: mean log-probabilities [B]. Returns losses [B], and the rewards of both replies [B],
    detached.

    By hand, beta 2 and gamma 0.5: means -1.0 and -1.5 give rewards -2 and -3, a margin of 1 - 0.5 = 0.5, and
    the loss log(1 + exp(-0.5)) = 0.4741. TRL's CPOTrainer computes the same with loss_type="simpo",
    beta=beta, simpo_gamma=gamma (it divides gamma by beta, then multiplies again); SimPO's own code calls
    gamma / beta its gamma_beta_ratio.
    """
    losses = -F.logsigmoid(beta * (chosen - rejected) - gamma)
    return losses, beta * chosen.detach(), beta * rejected.detach()


def pair_log_probs(
    llm: nn.Module, prompts: Sequence[Tensor], chosen: Sequence[Tensor], rejected: Sequence[Tensor]
) -> PairLogProbs:
    """Both replies of every pair in one forward pass, the prompt encoded once.

    prompts: input embeddings [T_i, d]; chosen, rejected: token ids [n] (n >= 1), end of turn included.
    ValueError for an empty reply.
    """
    replies = [list(pair) for pair in zip(chosen, rejected, strict=True)]
    log_probs, owner = branched_log_probs(llm, prompts, replies)
    means = mean_by_row(log_probs, owner, 2 * len(replies)).view(-1, 2)
    return PairLogProbs(means[:, 0], means[:, 1], log_probs[owner % 2 == 0].mean())


def total_loss(
    pairs: PairLogProbs,
    beta: float,
    gamma: float,
    autoregressive_weight: float,
    fraction: BatchFraction = WHOLE,
) -> tuple[Tensor, dict[str, float]]:
    """EPO plus the standard autoregressive loss, from the same log-probabilities (paper, section 3.4).

    The autoregressive term is the token mean over the batch's true replies, as in SimPO and TRL (cpo_alpha).
    Returns the scalar and figures for the log; where the pairs are a part of a batch, their shares of the batch's.
    """
    losses, chosen, rejected = epo_loss(pairs.chosen, pairs.rejected, beta, gamma)
    epo, nll = fraction.pairs * losses.mean(), -fraction.tokens * pairs.chosen_token_mean
    logs = {
        "epo": epo.item(),
        "nll": nll.item(),
        "reward_chosen": fraction.pairs * chosen.mean().item(),
        "reward_rejected": fraction.pairs * rejected.mean().item(),
        "margin": fraction.pairs * (chosen - rejected).mean().item(),
        "accuracy": fraction.pairs * (chosen > rejected).float().mean().item(),
    }
    return epo + autoregressive_weight * nll, logs


def joined(parts: Sequence[PairLogProbs], tokens: Sequence[int]) -> PairLogProbs:
    """Several batches as one; tokens: chosen tokens of each, which weight the token means."""
    weights = torch.tensor(tokens, dtype=torch.float32, device=parts[0].chosen.device)
    means = torch.stack([p.chosen_token_mean for p in parts])
    return PairLogProbs(
        torch.cat([p.chosen for p in parts]),
        torch.cat([p.rejected for p in parts]),
        (means * weights).sum() / weights.sum(),
    )
