"""Mean memories, and the hybrid prompt: older utterances as memories, the last ones as text; token by token."""

import pytest
import torch

from model.compressor.compressor import new_compressor
from model.compressor.settings import CompressorSettings
from model.dialogue.dialogue import DialogueModel, load_dialogue
from model.dialogue.examples import DialogueExample
from model.dialogue.mean_memory import MeanMemory
from model.dialogue.settings import DialogueSettings
from model.llm import embed, greedy_replies, load_llm, token_ids
from model.prompts import DIALOGUE
from model.spoken import Spoken

HISTORY = (
    Spoken("Hello, my old friend.", 0),
    Spoken("Why?", 1),
    Spoken("It is a nice day.", 0),
    Spoken("Okay.", 1),
)
BEFORE = f"<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{DIALOGUE}\nhistory: "
AFTER = "\nsentence: Are you sad?<|im_end|>\n<|im_start|>assistant\n"


def example(history=HISTORY, sentence="Are you sad?", reply="No.") -> DialogueExample:
    return DialogueExample("k", history, sentence, reply)


@pytest.fixture(scope="module")
def llm(tiny_llm_folder):
    return load_llm(tiny_llm_folder, "float32")


@pytest.fixture(scope="module")
def compressor(llm):
    settings = CompressorSettings(weights="", hidden=32, layers=1)
    return new_compressor(settings, llm[1], llm[0].get_input_embeddings().weight, None).eval()


class Spans:
    """Gives each utterance as many memories as it has words, each filled with a number of its own."""

    def compress(self, dialogues, *, dtype=torch.float32, device=None):
        rows = [sum(self.counts(dialogue)) for dialogue in dialogues]
        made = (torch.arange(1.0, count + 1)[:, None].repeat(1, 64) for count in rows)
        return [memories.to(device=device, dtype=dtype) for memories in made]

    def counts(self, dialogue):
        return [len(u.text.split()) for u in dialogue]

    def reads_whole(self, text):
        return True


def by_hand(llm, *parts) -> torch.Tensor:
    """Input embeddings [T, d] of texts and embeddings one after the other."""
    table = llm[0].get_input_embeddings().weight
    return torch.cat([table[token_ids(llm[1], p)] if isinstance(p, str) else p for p in parts])


def same(found, wanted) -> bool:
    return found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-6)


def test_the_template_here_is_the_tokenizers(llm):
    bare = DialogueModel(*llm, "text").prompt(example(history=()))
    assert same(bare, by_hand(llm, BEFORE.removesuffix("\nhistory: ") + AFTER))


def test_a_hybrid_prompt_token_by_token(llm, compressor):
    model = DialogueModel(*llm, "memory", compressor, settings=DialogueSettings(recent_utterances=2))
    older = compressor.compress([HISTORY])[0][:2].detach()
    text = f"\ngpt: It is a nice day.\nhuman: Okay.{AFTER}"
    assert same(model.prompt(example()), by_hand(llm, BEFORE, older, text))
    # Nothing is older than the last ones: text alone, as the text form has it.
    plain = DialogueModel(*llm, "text")
    for few in (HISTORY[:2], HISTORY[:1], ()):
        assert same(model.prompt(example(few)), plain.prompt(example(few)))
    assert model.counts == {"prompts": 4, "dropped_utterances": 0}


def test_no_recent_utterance_is_the_papers_prompt(llm, compressor):
    model = DialogueModel(*llm, "memory", compressor)
    assert same(
        model.prompt(example()), by_hand(llm, BEFORE, compressor.compress([HISTORY])[0].detach(), AFTER)
    )


def test_as_many_memories_as_the_compressor_gives(llm):
    settings = DialogueSettings(recent_utterances=1, max_history_utterances=3)
    model = DialogueModel(*llm, "memory", Spans(), settings=settings)
    # Four, one and five words: of the three newest the last is text, the two before have memories 5, and 6 to 10.
    memories = torch.arange(5.0, 11.0)[:, None].repeat(1, 64)
    assert same(model.prompt(example()), by_hand(llm, BEFORE, memories, f"\nhuman: Okay.{AFTER}"))
    assert model.counts == {"prompts": 1, "dropped_utterances": 1}


def test_older_memories_leave_first_where_the_window_is_full(llm):
    model = DialogueModel(*llm, "memory", Spans(), settings=DialogueSettings(recent_utterances=1))
    bare = len(model.prompt(example(history=())))
    line = len(token_ids(llm[1], "human: Okay.")) + 1

    def prompt(room: int) -> torch.Tensor:
        """With room for so many tokens of history: the window less the margin, the bare prompt and the reply."""
        return model.prompts([example()], None, model.window - 16 - bare - room)[0]

    numbers = torch.arange(1.0, 11.0)[:, None].repeat(1, 64)
    text = f"\nhuman: Okay.{AFTER}"
    assert same(prompt(line + 10), by_hand(llm, BEFORE, numbers, text))
    assert same(prompt(line + 9), by_hand(llm, BEFORE, numbers[4:], text))
    assert same(prompt(line + 5), by_hand(llm, BEFORE, numbers[5:], text))
    assert same(prompt(line + 4), by_hand(llm, BEFORE + "human: Okay." + AFTER))
    assert "recent_as_memories" not in model.counts
    # Too little for the line: what it says stands as a memory, the eleventh, before it the five and the one of older ones.
    last = torch.arange(1.0, 12.0)[:, None].repeat(1, 64)
    assert 7 <= line - 1 < 11
    assert same(prompt(line - 1), by_hand(llm, BEFORE, last[4:], AFTER))
    assert same(prompt(1), by_hand(llm, BEFORE, last[10:], AFTER))
    assert same(prompt(0), by_hand(llm, BEFORE.removesuffix("\nhistory: ") + AFTER))
    assert model.counts["recent_as_memories"] == 3


def test_a_last_utterance_without_room_as_text_is_a_memory(llm):
    settings = DialogueSettings(recent_utterances=2, max_history_tokens=1)
    model = DialogueModel(*llm, "memory", Spans(), settings=settings)
    assert same(
        model.prompt(example()), by_hand(llm, BEFORE, torch.arange(1.0, 12.0)[:, None].repeat(1, 64), AFTER)
    )
    assert model.counts == {"prompts": 1, "dropped_utterances": 0, "recent_as_memories": 2}


def test_the_kept_start_serves_the_hybrid_and_changes_no_reply(responsive_llm_folder):
    llm = load_llm(responsive_llm_folder, "float32")
    settings = DialogueSettings(recent_utterances=1, max_new_tokens=6, memory="mean")
    model = DialogueModel(*llm, "memory", settings=settings)
    rows = [example(), example(HISTORY[:1]), example(()), example(HISTORY[:3], "Yeah")]
    plain = [greedy_replies(*llm, [model.prompt(row)], 6)[0] for row in rows]
    assert model.reply(rows) == plain and model.cached_prefix() is not None


def test_memories_made_turn_by_turn_give_the_hybrids_prompt(llm, compressor):
    model = DialogueModel(*llm, "memory", compressor, settings=DialogueSettings(recent_utterances=1))
    past, made = None, []
    for utterance in HISTORY:
        memory, past = compressor.step(utterance, past)
        made.append(memory)
    streamed = model.prompts([example()], {HISTORY: tuple(made)})[0]
    assert torch.allclose(streamed, model.prompt(example()), atol=1e-5)


def test_a_mean_memory_by_hand(llm):
    llm_, tokenizer = llm
    table = llm_.get_input_embeddings().weight
    memory = MeanMemory(tokenizer, table)
    (found,) = memory.compress([HISTORY[1:3]])
    why, day = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Why?", "It is a nice day.")
    )
    assert len(day) > 2
    wanted = [sum(table[i] for i in ids) / len(ids) for ids in (why, day)]
    assert torch.allclose(found, torch.stack(wanted), atol=1e-7)
    # Neither what came before nor who spoke changes it.
    assert torch.equal(memory.compress([(Spoken("Why?", 7),)])[0][0], found[0])
    assert memory.compress([()])[0].shape == (0, 64) and memory.counts(HISTORY) == [1] * 4
    with pytest.raises(ValueError, match="without tokens"):
        memory.compress([(Spoken(""),)])


def test_a_mean_memory_needs_no_compressor_and_stands_where_a_memory_stands(llm, tiny_llm_folder, compressor):
    settings = DialogueSettings(memory="mean", recent_utterances=1)
    means = MeanMemory(llm[1], llm[0].get_input_embeddings().weight).compress([HISTORY[:3]])[0]
    wanted = by_hand(llm, BEFORE, means, f"\nhuman: Okay.{AFTER}")
    for given in (None, compressor):
        assert same(DialogueModel(*llm, "memory", given, settings=settings).prompt(example()), wanted)
    loaded = load_dialogue(tiny_llm_folder, None, None, None, "memory", "float32", settings)
    assert same(loaded.prompt(example()), wanted)
    assert embed(loaded.llm, loaded.pieces([example()])[0]).shape == wanted.shape
