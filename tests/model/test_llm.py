"""Prompts of ids and embeddings, and log-probabilities against transformers' own loss."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.branches import reply_log_probs
from model.llm import (
    CachedPrefix,
    chat_pieces,
    embed,
    embedded_cache,
    filled_cache,
    greedy_replies,
    load_llm,
    mean_by_row,
    prefix_cache,
    reply_ids,
    token_ids,
)


@pytest.fixture(scope="module")
def loaded(tiny_llm_folder):
    return load_llm(tiny_llm_folder, "float32")


def test_a_partial_llm_names_its_weights_and_a_tied_head_needs_none(tiny_llm_folder, tmp_path):
    shutil.copytree(tiny_llm_folder, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in weights  # it is tied, and loads all the same
    kept = {name: value for name, value in weights.items() if ".layers.1.mlp." not in name}
    assert len(weights) - len(kept) == 3
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing: model.layers.1.mlp.down_proj.weight, .*up_proj.weight"):
        load_llm(tmp_path, "float32")


def test_reply_log_probs_equal_the_loss_of_a_full_forward(loaded):
    llm, tokenizer = loaded
    prompts = [
        token_ids(tokenizer, "Why are you sad?"),
        token_ids(tokenizer, "Hello, my old friend of the beach."),
    ]
    replies = [reply_ids(tokenizer, "I am not."), reply_ids(tokenizer, "Yeah, well, all right then.")]
    found, owner = reply_log_probs(llm, [embed(llm, [p]) for p in prompts], replies)
    means = mean_by_row(found, owner, 2)
    for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        ids = torch.cat([prompt, reply])[None].to(llm.device)
        labels = torch.cat([torch.full_like(prompt, -100), reply])[None].to(llm.device)
        assert -means[i].item() == pytest.approx(llm(input_ids=ids, labels=labels).loss.item(), abs=1e-5)


def test_a_cached_prefix_gives_the_same_log_probs(loaded):
    llm, tokenizer = loaded
    prefix = token_ids(tokenizer, "There is a person who says:")
    prompts = [token_ids(tokenizer, " it is a nice day"), token_ids(tokenizer, " no")]
    replies = [reply_ids(tokenizer, "Really?"), reply_ids(tokenizer, "I think we should talk.")]
    plain, _ = reply_log_probs(llm, [embed(llm, [prefix, p]) for p in prompts], replies)
    cache = prefix_cache(llm, prefix)
    for _ in range(2):  # the cache is not used up
        cached, _ = reply_log_probs(llm, [embed(llm, [p]) for p in prompts], replies, cache)
        assert torch.allclose(plain, cached, atol=1e-5)


def test_reply_ids_end_with_the_end_of_turn(loaded):
    assert reply_ids(loaded[1], "Okay.")[-1] == loaded[1].eos_token_id


def test_embeddings_stand_where_placeholders_stood(loaded):
    llm, tokenizer = loaded
    slot = torch.randn(3, 64)
    pieces = chat_pieces(tokenizer, "a <x> b", {"<x>": slot})
    assert len(pieces) == 3 and pieces[1] is slot
    text = tokenizer.decode(pieces[0]) + "<x>" + tokenizer.decode(pieces[2])
    assert (
        text == "<|im_start|>system\n<|im_end|>\n<|im_start|>user\na <x> b<|im_end|>\n<|im_start|>assistant\n"
    )
    whole = embed(llm, pieces)
    assert torch.equal(whole[len(pieces[0]) : len(pieces[0]) + 3].cpu(), slot)
    with pytest.raises(ValueError, match="<y>"):
        chat_pieces(tokenizer, "a <x> b", {"<x>": slot, "<y>": slot})


def test_greedy_replies_do_not_depend_on_the_batch(loaded):
    llm, tokenizer = loaded
    prompts = [
        embed(llm, [token_ids(tokenizer, t)]) for t in ("happy", "Why would you say that? It makes me angry!")
    ]
    together = greedy_replies(llm, tokenizer, prompts, 8)
    assert together == [greedy_replies(llm, tokenizer, [p], 8)[0] for p in prompts]
    ids = token_ids(tokenizer, "happy")[None].to(llm.device)
    out = llm.generate(input_ids=ids, do_sample=False, max_new_tokens=8, pad_token_id=2)[0, ids.shape[1] :]
    assert together[0] == tokenizer.decode(out, skip_special_tokens=True).strip()


def test_greedy_is_greedy_whatever_the_folder_recommends(responsive_llm_folder, tmp_path):
    shutil.copytree(responsive_llm_folder, tmp_path, dirs_exist_ok=True)
    recommended = {
        "repetition_penalty": 5.0,
        "no_repeat_ngram_size": 1,
        "do_sample": True,
        "temperature": 0.7,
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(recommended))
    found = []
    for folder in (responsive_llm_folder, tmp_path):
        llm, tokenizer = load_llm(folder, "float32")
        prompt = embed(llm, [token_ids(tokenizer, "Why would you say that? It makes me angry!")])
        found.append(greedy_replies(llm, tokenizer, [prompt], 16)[0])
    # The likeliest token at every step, by hand.
    ids = []
    while len(ids) < 16 and ids[-1:] != [tokenizer.eos_token_id]:
        said = torch.cat([prompt, embed(llm, [torch.tensor(ids, dtype=torch.long)])])
        ids.append(int(llm(inputs_embeds=said[None]).logits[0, -1].argmax()))
    wanted = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert len(set(ids)) < len(ids), "nothing is repeated, so nothing would be penalised"
    assert found == [wanted, wanted]


def test_greedy_replies_after_a_shared_start(responsive_llm_folder):
    """Prompts of other lengths that begin alike, one of them nothing but the start: as each alone."""
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    start = token_ids(tokenizer, "You are a friend. Say something kind about the weather to")
    ends = [" me", " a friend who lost the train ticket at the station", ""]
    prompts = [embed(llm, [torch.cat([start, token_ids(tokenizer, end)])]) for end in ends]
    alone = [greedy_replies(llm, tokenizer, [p], 8)[0] for p in prompts]
    read = []
    watch = llm.model.register_forward_hook(
        lambda _, __, kw, ___: read.append(
            kw["inputs_embeds"].shape[:2] if kw.get("inputs_embeds") is not None else None
        ),
        with_kwargs=True,
    )
    assert greedy_replies(llm, tokenizer, prompts, 8) == alone
    watch.remove()
    shared = len(prompts[2]) - 1  # its last token is read again
    assert read[:2] == [(1, shared), (3, len(prompts[1]) - shared)]
    assert len(set(alone)) > 1
    assert greedy_replies(llm, tokenizer, prompts[:1] * 2, 8) == alone[:1] * 2


@torch.no_grad()
def test_a_kept_start_gives_the_same_logits_wherever_a_prompt_leaves_it(loaded):
    llm, tokenizer = loaded
    ids = token_ids(tokenizer, "You are a friend. Say something kind about the weather to")
    end = token_ids(tokenizer, " a friend who lost the train ticket")
    kept = CachedPrefix.of(llm, ids)
    for cut in (1, len(ids) - 2, len(ids)):
        whole = embed(llm, [ids[:cut], end])
        middle = embedded_cache(llm, whole[cut : cut + 3], kept.cut(cut))
        for start, cache in ((cut, kept.cut(cut)), (cut + 3, middle)):
            logits = llm(inputs_embeds=whole[None, start:], past_key_values=filled_cache(cache)).logits[0]
            assert torch.allclose(logits, llm(inputs_embeds=whole[None]).logits[0, start:], atol=1e-5)


def test_greedy_replies_after_a_kept_start(responsive_llm_folder):
    """Alone or together, following the kept start, leaving it early, sharing more than it, or nothing but it."""
    llm, tokenizer = load_llm(responsive_llm_folder, "float32")
    texts = [
        "You are a friend. Say something about the party",
        "You are a friend. Say something kind about the weather to",
        "You are a friend. Say something kind about the weather to me and to my friend",
        "You are a friend. Say something kind about the weather to me and to you",
        "Why?",
    ]
    prompts = [embed(llm, [token_ids(tokenizer, text)]) for text in texts]
    alone = [greedy_replies(llm, tokenizer, [p], 8)[0] for p in prompts]
    assert len(set(alone)) > 3
    kept = CachedPrefix.of(llm, token_ids(tokenizer, texts[1]))
    for rows in ([0], [1], [2], [3], [4], [2, 3], [1, 2, 3], [0, 1, 2, 3, 4]):
        found = greedy_replies(llm, tokenizer, [prompts[i] for i in rows], 8, kept)
        assert found == [alone[i] for i in rows], rows
