"""A scorer on a decoder's lower layers: the states are the whole model's, pooling and first token by hand."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from model.scorer.network import EmotionNetwork, load_encoder, token_rows
from model.scorer.settings import EmotionNetworkSettings
from model.zoo.resolve import resolve


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 400, (2, 5), generator=torch.Generator().manual_seed(0))


def test_the_lower_layers_give_the_whole_models_states(ids):
    whole = AutoModel.from_pretrained(resolve("tiny-llm")).eval()
    lower = load_encoder("tiny-llm", 1)
    assert len(lower.layers) == 1 < len(whole.layers)
    with torch.no_grad():
        theirs = whole(input_ids=ids, output_hidden_states=True).hidden_states
        ours = lower(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(ours) == 2
    for layer in (0, 1):
        assert torch.equal(ours[layer], theirs[layer])


def test_the_first_token_is_left_out_of_the_mean_unless_it_is_alone(ids):
    settings = EmotionNetworkSettings(base="tiny-llm", layers=(1,), pooling="after_first", hidden=28)
    network = EmotionNetwork(load_encoder("tiny-llm", 1), settings)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] + [False] * 4])
    before = mask.clone()
    with torch.no_grad():
        states = network.encoder(
            input_ids=ids, attention_mask=mask.long(), output_hidden_states=True
        ).hidden_states[1]
        pooled = network.pooled(ids, mask)
    assert torch.allclose(pooled[0], (states[0, 1] + states[0, 2]) / 2, atol=1e-6)
    assert torch.allclose(pooled[1], states[1, 0], atol=1e-6)
    assert torch.equal(mask, before)


def test_a_started_text_has_a_token_and_none_more_than_the_most():
    tokenizer = AutoTokenizer.from_pretrained(resolve("tiny-llm"))
    assert tokenizer("")["input_ids"] == []
    empty, short, long = token_rows(tokenizer, ["", "hello", "word " * 90], 16, started=True)
    assert empty == [tokenizer.bos_token_id]
    assert short == [tokenizer.bos_token_id, *tokenizer("hello")["input_ids"]]
    assert len(long) == 16
    assert token_rows(tokenizer, [], 16) == token_rows(tokenizer, [], 16, started=True) == []
    assert token_rows(tokenizer, ["hello"], 16) == [tokenizer("hello")["input_ids"]]
