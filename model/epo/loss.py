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

    true_token_mean: mean over all tokens of all true replies, a scalar.
    """

    chosen: Tensor
    rejected: Tensor
    true_token_mean: Tensor


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
    llm: nn.Module,
    prompts: Sequence[Tensor],
    chosen: Sequence[Tensor],
    rejected: Sequence[Tensor],
    true: Sequence[Tensor | None] | None = None,
) -> PairLogProbs:
    """All replies of every pair in one forward pass, the prompt encoded once.

    prompts: input embeddings [T_i, d]; chosen, rejected: token ids [n] (n >= 1), end of turn included. true: the true
    reply where another is chosen; None, for a pair or for all: the chosen one is the true one, and computed once.
    ValueError for an empty reply.
    """
    apart = true if true is not None else [None] * len(chosen)
    replies = [[c, r] if t is None else [c, r, t] for c, r, t in zip(chosen, rejected, apart, strict=True)]
    log_probs, owner = branched_log_probs(llm, prompts, replies)
    first = [0]
    for said in replies:
        first.append(first[-1] + len(said))
    # Of each pair the chosen reply, the rejected one, and the true one, by the numbers that `owner` gives them.
    chosen_at = torch.tensor(first[:-1], device=owner.device)
    true_at = torch.tensor(
        [at + (2 if len(said) == 3 else 0) for at, said in zip(first, replies, strict=False)]
    )
    means = mean_by_row(log_probs, owner, first[-1])
    of_true = torch.isin(owner, true_at.to(owner.device))
    return PairLogProbs(means[chosen_at], means[chosen_at + 1], log_probs[of_true].mean())


def total_loss(
    pairs: PairLogProbs,
    beta: float,
    gamma: float,
    autoregressive_weight: float,
    fraction: BatchFraction = WHOLE,
    preference_weight: float = 1.0,
) -> tuple[Tensor, dict[str, float]]:
    """EPO plus the standard autoregressive loss, from the same log-probabilities (paper, section 3.4).

    The autoregressive term is the token mean over the batch's true replies, as in SimPO and TRL (cpo_alpha).
    preference_weight: EPO's; 0 leaves the autoregressive loss alone, and the figures as they are.
    Returns the scalar and figures for the log; where the pairs are a part of a batch, their shares of the batch's.
    """
    losses, chosen, rejected = epo_loss(pairs.chosen, pairs.rejected, beta, gamma)
    epo, nll = fraction.pairs * losses.mean(), -fraction.tokens * pairs.true_token_mean
    logs = {
        "epo": epo.item(),
        "nll": nll.item(),
        "reward_chosen": fraction.pairs * chosen.mean().item(),
        "reward_rejected": fraction.pairs * rejected.mean().item(),
        "margin": fraction.pairs * (chosen - rejected).mean().item(),
        "accuracy": fraction.pairs * (chosen > rejected).float().mean().item(),
    }
    return preference_weight * epo + autoregressive_weight * nll, logs


def joined(parts: Sequence[PairLogProbs], tokens: Sequence[int]) -> PairLogProbs:
    """Several batches as one; tokens: tokens of each one's true replies, which weight the token means."""
    weights = torch.tensor(tokens, dtype=torch.float32, device=parts[0].chosen.device)
    means = torch.stack([p.true_token_mean for p in parts])
    return PairLogProbs(
        torch.cat([p.chosen for p in parts]),
        torch.cat([p.rejected for p in parts]),
        (means * weights).sum() / weights.sum(),
    )
