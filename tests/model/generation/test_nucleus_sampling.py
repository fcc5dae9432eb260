"""Nucleus sampling against hand calculation and against transformers' own filter."""

import torch
from transformers import TopPLogitsWarper

from model.generation.sampling import draw_tokens, keep_nucleus


def _uniforms(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    # Probabilities 0.5, 0.3, 0.15, 0.05 on tokens 2, 0, 3, 1; the nucleus of 0.9 holds the first three.
    logits = torch.log(torch.tensor([[0.3, 0.05, 0.5, 0.15]])).repeat(5, 1)
    uniforms = _uniforms(0.0, 0.52, 0.54, 0.85, 0.9999)
    # The nucleus has mass 0.95: bounds at 0.526 and 0.842.
    assert draw_tokens(logits, uniforms, 1.0, 0.9).tolist() == [2, 2, 0, 3, 3]


def test_temperature_by_hand():
    # At temperature 0.5 probabilities are squared: 0.8 and 0.2 become 16/17 and 1/17.
    logits = torch.log(torch.tensor([[0.8, 0.2]])).repeat(2, 1)
    assert draw_tokens(logits, _uniforms(0.94, 0.95), 0.5, 1.0).tolist() == [0, 1]


def test_temperature_zero_is_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 1.0]])
    assert draw_tokens(logits, _uniforms(0.99, 0.99), 0, 0.1).tolist() == [1, 0]


def test_a_peak_alone_is_a_nucleus():
    assert draw_tokens(torch.tensor([[9.0, 0.0]]), _uniforms(0.999999), 1.0, 0.5).tolist() == [0]


def test_frequencies_equal_the_peers_distribution():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 40, generator=generator) * 2
    expected = TopPLogitsWarper(0.8)(None, logits / 0.7).softmax(-1)[0]
    uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = draw_tokens(logits.expand(20_000, -1), uniforms, 0.7, 0.8)
    frequencies = torch.bincount(drawn, minlength=40) / 20_000
    torch.testing.assert_close(frequencies, expected, atol=1e-4, rtol=0)


def test_a_flat_large_vocabulary_is_drawn_whole():
    # 5000 equal tokens: the first 1024 hold too little mass, the draw must reach beyond them.
    drawn = draw_tokens(
        torch.zeros(400, 5000), torch.linspace(0, 0.9999, 400, dtype=torch.float64), 1.0, 0.95
    )
    assert len(drawn.unique()) == 400


def test_kept_logits_equal_the_peers():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(6, 3000, generator=generator) * torch.tensor([0.1, 0.5, 1, 2, 4, 8])[:, None]
    for top_p in (0.3, 0.8, 0.95, 0.999):
        ours = keep_nucleus(logits, torch.full((6,), top_p))
        assert torch.equal(ours, TopPLogitsWarper(top_p)(None, logits))


def test_rows_keep_their_own_nucleus():
    logits = torch.log(torch.tensor([[0.3, 0.05, 0.5, 0.15]])).repeat(3, 1)
    kept = keep_nucleus(logits, torch.tensor([0.4, 0.7, 1.0])).isfinite()
    assert kept.tolist() == [[False, False, True, False], [True, False, True, False], [True] * 4]


def test_a_row_with_ties_does_not_depend_on_the_rows_beside_it():
    generator = torch.Generator().manual_seed(5)
    # Few distinct values, as bfloat16 gives: many ties at the nucleus' edge.
    tied = (torch.randn(4, 5000, generator=generator) * 3).round()
    beside = torch.cat([tied, torch.zeros(1, 5000)])
    top_p = torch.full((5,), 0.9)
    assert torch.equal(keep_nucleus(beside, top_p)[:4], keep_nucleus(tied, top_p[:4]))
    uniforms = torch.rand(5, generator=generator, dtype=torch.float64)
    assert torch.equal(draw_tokens(beside, uniforms, 1.0, 0.9)[:4], draw_tokens(tied, uniforms[:4], 1.0, 0.9))
