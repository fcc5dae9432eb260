"""EPO's loss against TRL's own CPOTrainer code, against separate forwards, and against a hand calculation."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GptOssConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
)

from model.branches import branched_log_probs, plan_layout, reply_log_probs
from model.epo.loss import epo_loss, joined, pair_log_probs, total_loss
from model.llm import prefix_cache

BETA, GAMMA, WEIGHT = 2.0, 0.5, 1.0


@pytest.fixture(autouse=True, params=[0, 128], ids=["block by block", "side by side"])
def attention(request, monkeypatch):
    """Either way that blocks may be attended to; which one is chosen by their length."""
    monkeypatch.setattr("model.branches.SHORT", request.param)


def tiny_llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def random_ids(lengths, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 97, (n,), generator=generator) for n in lengths]


PROMPTS = random_ids([7, 1, 30, 12], 1)
CHOSEN = random_ids([5, 1, 2, 40], 2)
REJECTED = random_ids([1, 9, 33, 3], 3)


SHARED = [torch.cat([torch.arange(40, 49), p]) for p in PROMPTS]
"""The same prompts behind a start of nine tokens, as an instruction is."""


def ours(llm, prompts=PROMPTS) -> torch.Tensor:
    with torch.no_grad():
        prompts = [llm.get_input_embeddings()(p) for p in prompts]
    return total_loss(pair_log_probs(llm, prompts, CHOSEN, REJECTED), BETA, GAMMA, WEIGHT)[0]


def trl_batch(prompts, replies, name: str) -> dict[str, torch.Tensor]:
    rows = [torch.cat(pair) for pair in zip(prompts, replies, strict=True)]
    labels = [torch.cat([torch.full_like(p, -100), r]) for p, r in zip(prompts, replies, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        f"{name}_input_ids": pad(rows, True, 2),
        f"{name}_attention_mask": pad([torch.ones_like(r) for r in rows], True, 0),
        f"{name}_labels": pad(labels, True, -100),
    }


def trl_loss(llm, prompts=PROMPTS) -> torch.Tensor:
    """TRL's own methods on a stand-in that carries the settings they read."""
    trainer = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    stand_in = SimpleNamespace(
        alpha=0.0,
        loss_type="simpo",
        simpo_gamma=GAMMA,
        beta=BETA,
        cpo_alpha=WEIGHT,
        label_smoothing=0.0,
        is_encoder_decoder=False,
        aux_loss_enabled=False,
        pad_token_id=2,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        concatenated_inputs=trainer.concatenated_inputs,
        get_batch_logps=trainer.get_batch_logps,
    )
    batch = {**trl_batch(prompts, CHOSEN, "chosen"), **trl_batch(prompts, REJECTED, "rejected")}
    chosen, rejected, _, _, nll = trainer.concatenated_forward(stand_in, llm, batch)
    losses, _, _ = trainer.cpo_loss(stand_in, chosen, rejected)
    return losses.mean() + stand_in.cpo_alpha * nll


def gradients(llm, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    llm.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in llm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("prompts", [PROMPTS, SHARED, SHARED[:1] * 4], ids=["apart", "shared", "equal"])
def test_value_and_every_gradient_equal_trl(prompts):
    """Embeddings of prompts are constants here, as in training; of replies they are not."""
    llm = tiny_llama()
    llm.get_input_embeddings().requires_grad_(False)
    mine, theirs = ours(llm, prompts), trl_loss(llm, prompts)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)
    mine_by_name, theirs_by_name = gradients(llm, mine), gradients(llm, theirs)
    assert mine_by_name.keys() == theirs_by_name.keys() and "lm_head.weight" in mine_by_name
    for name, theirs_gradient in theirs_by_name.items():
        assert torch.allclose(
            mine_by_name[name], theirs_gradient, rtol=1e-5, atol=1e-5 * theirs_gradient.abs().max()
        ), name


def test_prompts_that_learn_get_the_gradients_of_separate_forwards():
    """Equal prompts that carry gradients are not taken for one."""
    llm = tiny_llama().requires_grad_(False)
    start = torch.randn(6, 64)
    apart, together = ([start.clone().requires_grad_() for _ in range(2)] for _ in range(2))
    for prompt, reply in zip(apart, CHOSEN, strict=False):
        reply_log_probs(llm, [prompt], [reply])[0].sum().backward()
    reply_log_probs(llm, together, CHOSEN[:2])[0].sum().backward()
    for a, b in zip(apart, together, strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5 * float(a.grad.abs().max()))


def test_hand_calculation():
    chosen = torch.tensor([-1.0, -3.0])
    rejected = torch.tensor([-1.5, -0.5])
    losses, reward_chosen, reward_rejected = epo_loss(chosen, rejected, 2.0, 0.5)
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(-0.5)), math.log1p(math.exp(5.5))])
    assert reward_chosen.tolist() == [-2.0, -6.0]
    assert reward_rejected.tolist() == [-3.0, -1.0]


def test_gamma_is_absolute():
    """A margin of exactly gamma costs log 2 whatever beta is."""
    for beta in (0.5, 2.0, 10.0):
        losses, _, _ = epo_loss(torch.tensor([0.5 / beta]), torch.tensor([0.0]), beta, 0.5)
        assert losses.item() == pytest.approx(math.log(2), rel=1e-6)


def test_equal_replies_share_no_information():
    """The second of two equal replies must score as the first: it sees the prompt alone."""
    llm = tiny_llama()
    prompts = [llm.get_input_embeddings()(p) for p in PROMPTS]
    pairs = pair_log_probs(llm, prompts, CHOSEN, CHOSEN)
    assert torch.allclose(pairs.chosen, pairs.rejected, atol=1e-5)


@torch.no_grad()
def test_branches_equal_one_forward_per_reply_with_and_without_prefix():
    llm = tiny_llama(1)
    replies = [random_ids([3, 1, 8], 10 + i) for i in range(len(PROMPTS))]
    prompts = [llm.get_input_embeddings()(p) for p in PROMPTS]
    start = random_ids([6], 9)[0]
    prefix = prefix_cache(llm, start)
    for cached in (None, prefix):
        log_probs, owner = branched_log_probs(llm, prompts, replies, cached)
        for number, (row, branch) in enumerate((i, k) for i in range(len(PROMPTS)) for k in range(3)):
            alone, _ = reply_log_probs(llm, [prompts[row]], [replies[row][branch]], cached)
            assert torch.allclose(log_probs[owner == number], alone, atol=1e-5)
    whole = [torch.cat([llm.get_input_embeddings()(start), p]) for p in prompts]
    assert torch.allclose(branched_log_probs(llm, whole, replies)[0], log_probs, atol=1e-5)


@torch.no_grad()
def test_attention_that_is_not_computed_is_refused():
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    prompt, reply = torch.randn(12, 32), torch.tensor([5, 2])

    def scored(config) -> torch.Tensor:
        torch.manual_seed(0)
        llm = AutoModelForCausalLM.from_config(config).eval()
        return reply_log_probs(llm, [prompt], [reply])[0]

    unbounded, exact = (
        scored(MistralConfig(**sizes, **heads, sliding_window=window)) for window in (None, 14)
    )
    assert torch.equal(unbounded, exact)
    with pytest.raises(ValueError, match="a sliding window of 13 tokens"):
        scored(MistralConfig(**sizes, **heads, sliding_window=13))
    with pytest.raises(ValueError, match="has softcap, which"):
        scored(Gemma2Config(**sizes, **heads))
    with pytest.raises(ValueError, match="has sinks and a sliding window of 4"):
        scored(GptOssConfig(**sizes, **heads, num_local_experts=2, sliding_window=4))


def test_layout_by_hand():
    """Prompts of 3 and 4, of which 2 shared, replies of 2 and 1 to each; one token cached before all."""
    layout = plan_layout([3, 4], [[2, 1], [2, 1]], shared=2, cached=1)
    assert layout.positions.tolist() == [1, 2, 3, 4, 5, 4, 3, 4, 5, 6, 5]
    first, second = layout.blocks
    assert (first.start, first.replies, first.end) == (2, 3, 6)
    assert (second.start, second.replies, second.end) == (6, 8, 11)
    # Cached, shared, shared, the prompt's own token; then the replies.
    assert first.seen.int().tolist() == [
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0, 0, 1],
    ]
    assert second.seen.shape == (3, 8)
    assert layout.sources.tolist() == [2, 3, 2, 7, 8, 7]
    assert layout.owner.tolist() == [0, 0, 1, 2, 2, 3]


def test_empty_reply_and_prompt_are_refused():
    llm = tiny_llama()
    prompt, none = llm.get_input_embeddings()(PROMPTS[0]), torch.tensor([], dtype=torch.long)
    with pytest.raises(ValueError, match="reply 2 to prompt 0 is empty"):
        pair_log_probs(llm, [prompt], [CHOSEN[0]], [none])
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        pair_log_probs(llm, [prompt[:0]], [CHOSEN[0]], [REJECTED[0]])


@torch.no_grad()
def test_joined_batches_equal_one_batch():
    llm = tiny_llama()
    prompts = [llm.get_input_embeddings()(p) for p in PROMPTS]
    whole = pair_log_probs(llm, prompts, CHOSEN, REJECTED)
    parts = [pair_log_probs(llm, prompts[s], CHOSEN[s], REJECTED[s]) for s in (slice(0, 1), slice(1, 4))]
    tokens = [len(CHOSEN[0]), sum(len(c) for c in CHOSEN[1:])]
    again = joined(parts, tokens)
    assert torch.allclose(whole.chosen, again.chosen, atol=1e-5)
    assert again.true_token_mean.item() == pytest.approx(whole.true_token_mean.item(), rel=1e-5)
