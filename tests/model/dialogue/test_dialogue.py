"""The prompt of table 6, its limits, and replies."""

import pytest
import torch

from model.branches import reply_log_probs
from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.dialogue.dialogue import DialogueModel, load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.llm import embed, greedy_replies, load_llm, reply_ids, token_ids
from model.spoken import Spoken

HISTORY = (Spoken("Hello, my old friend.", 0), Spoken("Why?", 1), Spoken("It is a nice day.", 0))
LINES = ("gpt: Hello, my old friend.", "human: Why?", "gpt: It is a nice day.")
VOICE, FACE = torch.randn(5, 3), torch.randn(7, 4)


class Emotions:
    """Stands for the extractor: 32 embeddings that tell which clip they come from."""

    def audio_embeddings(self, states):
        return torch.stack([s.mean() * torch.ones(32, 64) for s in states])

    def video_embeddings(self, tokens):
        return torch.stack([t.mean() * torch.ones(32, 64) for t in tokens])


def example(history=HISTORY, sentence="Are you sad?", audio=None, video=None) -> DialogueExample:
    return DialogueExample("k", history, sentence, "No.", audio, video)


@pytest.fixture(scope="module")
def llm(tiny_llm_folder):
    return load_llm(tiny_llm_folder, "float32")


@pytest.fixture(scope="module")
def compressor(llm):
    settings = CompressorSettings(weights="", hidden=32, layers=1)
    return new_compressor(settings, llm[1], llm[0].get_input_embeddings().weight, None).eval()


def text_of(model, prompt) -> str:
    """The prompt with every position that is no token embedding as '#'."""
    table = model.llm.get_input_embeddings().weight
    distance = torch.cdist(prompt, table, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, ids = distance.min(1)
    parts = [
        model.tokenizer.decode([i]) if d < 1e-6 else "#"
        for d, i in zip(nearest.tolist(), ids.tolist(), strict=True)
    ]
    return "".join(parts)


def lines_of(model, wanted) -> list[str]:
    return text_of(model, model.prompt(wanted)).split("<|im_start|>user\n")[1].split("\n")[1:-1]


def test_history_as_text(llm):
    model = DialogueModel(*llm, "text")
    assert lines_of(model, example()) == [
        f"history: {LINES[0]}",
        *LINES[1:],
        "sentence: Are you sad?<|im_end|>",
        "<|im_start|>assistant",
    ]


def test_history_as_memories_and_both_modalities(llm, compressor):
    model = DialogueModel(*llm, "memory", compressor, Emotions())
    assert model.use_audio_visual
    assert lines_of(model, example(audio=VOICE, video=FACE)) == [
        "history: ###",
        f"speech embeddings: {'#' * 32}",
        f"video embeddings: {'#' * 32}",
        "sentence: Are you sad?<|im_end|>",
        "<|im_start|>assistant",
    ]


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [
        (example(history=(), audio=VOICE, video=FACE), "history"),
        (example(video=FACE), "speech"),
        (example(audio=VOICE), "video"),
    ],
)
def test_a_line_without_content_is_left_out(llm, compressor, wanted, gone):
    model = DialogueModel(*llm, "memory", compressor, Emotions())
    lines = lines_of(model, wanted)
    assert len(lines) == 4 and not any(line.startswith(gone) for line in lines)


def test_without_an_extractor_clips_are_not_used(llm):
    model = DialogueModel(*llm, "text")
    assert torch.equal(model.prompt(example(audio=VOICE, video=FACE)), model.prompt(example()))


def test_each_example_gets_its_own_clip_and_memories(llm, compressor):
    model = DialogueModel(*llm, "memory", compressor, Emotions())
    batch = [
        example(audio=VOICE),
        example(history=HISTORY[:2], video=FACE),
        example(history=()),
        example(history=(Spoken("Okay.", 0),), audio=VOICE + 1, video=FACE),
    ]
    for wanted, prompt in zip(batch, model.prompts(batch), strict=True):
        assert torch.allclose(prompt, model.prompt(wanted), atol=1e-6)


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_an_empty_clip_is_named_by_exchange_and_row_of_the_batch(llm, modality):
    model = DialogueModel(*llm, "text", extractor=Emotions())
    empty = DialogueExample("film/7", (), "Why?", "No.", **{modality: torch.zeros(0, 3)})
    with pytest.raises(
        ValueError, match=rf"the {modality} of film/7 \(row 2\) has length zero; leave it out"
    ):
        model.pieces([example(), example(audio=VOICE, video=FACE), empty])


def test_histories_that_begin_another_share_its_pass(llm, compressor):
    model = DialogueModel(*llm, "memory", compressor)
    other = (Spoken("Why?", 1),)
    found = model.memories([HISTORY[:1], HISTORY, other, HISTORY[:2], ()])
    assert set(found) == {HISTORY[:1], HISTORY, other, HISTORY[:2]}
    for history, memories in found.items():
        assert torch.allclose(torch.cat(memories), compressor.compress([history])[0], atol=1e-6)
    assert found[HISTORY[:1]][0].data_ptr() == found[HISTORY][0].data_ptr()


def test_the_oldest_utterances_are_dropped_and_counted(llm, compressor):
    model = DialogueModel(*llm, "text", settings=DialogueSettings(max_history_utterances=2))
    assert lines_of(model, example())[:2] == [f"history: {LINES[1]}", LINES[2]]
    assert model.counts == {"prompts": 1, "dropped_utterances": 1}
    size = len(token_ids(llm[1], LINES[2])) + 1
    model = DialogueModel(*llm, "text", settings=DialogueSettings(max_history_tokens=size))
    assert lines_of(model, example())[0] == f"history: {LINES[2]}"
    model = DialogueModel(*llm, "memory", compressor, settings=DialogueSettings(max_history_utterances=1))
    whole = compressor.compress([HISTORY])[0]
    position = text_of(model, prompt := model.prompt(example())).split("history: ")[0]
    assert "#" not in position and any(torch.allclose(row, whole[2], atol=1e-6) for row in prompt)
    none = DialogueModel(*llm, "text", settings=DialogueSettings(max_history_utterances=0))
    assert torch.equal(none.prompt(example()), none.prompt(example(history=())))


def test_a_history_longer_than_the_window_still_fits(llm):
    settings = DialogueSettings(max_history_utterances=10_000, max_history_tokens=10**6)
    model = DialogueModel(*llm, "text", settings=settings)
    prompt = model.prompt(example(history=HISTORY * 200))
    assert 1500 < len(prompt) <= 2048 - settings.max_new_tokens
    assert (
        len(prompt) - 120
        < len(model.prompts([example(history=HISTORY * 200)], None, 160)[0])
        < len(prompt) - 80
    )
    assert model.counts["dropped_utterances"] > 0
    with pytest.raises(ValueError, match="k: its prompt has .* shorten the sentence"):
        model.prompt(example(sentence="happy " * 2000))


@pytest.mark.parametrize("words", [10, 120])
def test_training_leaves_room_for_a_reply_of_any_length(llm, words):
    settings = DialogueSettings(max_history_utterances=10_000, max_history_tokens=10**6)
    model = DialogueModel(*llm, "text", settings=settings)
    wanted = DialogueExample("k", HISTORY * 200, "Why?", "happy " * words)
    reply = reply_ids(llm[1], wanted.reply)
    prompt = embed(llm[0], model.pieces([wanted])[0])
    assert 2048 - 64 < len(prompt) + max(64, len(reply)) <= 2048
    reply_log_probs(llm[0], [prompt], [reply])
    unsaid = DialogueExample("k", wanted.history, wanted.sentence, "")
    assert torch.equal(model.prompt(wanted), model.prompt(unsaid)), (
        "a prompt knows how long the true reply is"
    )


def test_what_people_say_is_no_placeholder(llm, compressor):
    model = DialogueModel(*llm, "memory", compressor, Emotions())
    lines = lines_of(model, example(sentence="I wrote <memory> and <<audio>>", audio=VOICE))
    assert lines[2] == "sentence: I wrote memory and audio<|im_end|>"


def test_replies_keep_the_order_and_do_not_depend_on_the_batch(llm, compressor):
    model = DialogueModel(
        *llm, "memory", compressor, Emotions(), DialogueSettings(max_new_tokens=6, reply_batch_size=2)
    )
    batch = [
        example(),
        example(history=(), sentence="Yeah"),
        example(audio=VOICE, sentence="What a surprise"),
    ]
    alone = [model.reply([wanted])[0] for wanted in batch]
    assert model.reply(batch) == alone
    told = []
    assert model.reply_to(model.pieces(batch), progress=lambda *steps: told.append(steps)) == alone
    assert told == [(2, 3, {}), (3, 3, {})]


@pytest.mark.parametrize("history", ["text", "memory"])
def test_the_instruction_is_encoded_once_and_changes_no_reply(tiny_llm_folder, history):
    llm, tokenizer = load_llm(tiny_llm_folder, "float32")
    torch.manual_seed(1)
    with torch.no_grad():  # large enough that what comes first in a prompt matters to the reply
        for parameter in (p for p in llm.parameters() if p.ndim == 2):
            parameter.normal_(0, 0.3)
    compressor = new_compressor(
        CompressorSettings(weights="", hidden=32, layers=1),
        tokenizer,
        llm.get_input_embeddings().weight,
        None,
    )
    model = DialogueModel(
        llm, tokenizer, history, compressor.eval(), Emotions(), DialogueSettings(max_new_tokens=6)
    )
    wanted = [
        example(),
        example(history=(), sentence="Yeah"),
        example(audio=VOICE),
        example(history=HISTORY[:1]),
    ]
    plain = [greedy_replies(llm, tokenizer, [model.prompt(e)], 6)[0] for e in wanted]
    assert len(set(plain)) > 2
    model.reply(wanted[:1])
    start, read = len(model.cached_prefix().embeddings), []
    watch = llm.model.register_forward_hook(
        lambda _, __, kw, ___: read.append(
            kw["inputs_embeds"].shape[1] if kw.get("inputs_embeds") is not None else 0
        ),
        with_kwargs=True,
    )
    assert [model.reply([e])[0] for e in wanted] == plain
    watch.remove()
    computed = [count for count in read if count > 1]
    assert computed[0] == len(model.prompt(wanted[0])) - start and len(computed) == len(wanted)
    assert model.reply(wanted) == plain


def test_nothing_is_kept_of_an_llm_that_is_trained(tiny_llm_folder):
    model = DialogueModel(*load_llm(tiny_llm_folder, "float32"), "text")
    assert model.cached_prefix() is model.cached_prefix() is not None
    next(model.llm.parameters()).requires_grad_(True)
    assert model.cached_prefix() is None


def test_memories_need_a_compressor(llm):
    with pytest.raises(ValueError, match="needs a compressor"):
        DialogueModel(*llm, "memory")


def test_load_without_any_adapter(tiny_llm_folder):
    model = load_dialogue(tiny_llm_folder, None, None, None, "text", "float32")
    assert len(model.reply([example()], max_new_tokens=3)) == 1
