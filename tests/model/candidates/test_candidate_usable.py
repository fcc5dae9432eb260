"""Tidying and judging candidates, on texts that a small LLM really wrote and on lines that people really say."""

import pytest

from model.candidates.prompts import WORKED_EXAMPLES
from model.candidates.usable import REASONS, tidy, usable

SENTENCE = "Well I was just so excited to see you."


@pytest.mark.parametrize(
    ("text", "finish", "tidied"),
    [
        ("  Oh, how\n\nlovely! ", "stop", "Oh, how lovely!"),
        ('"I am so glad you came."', "stop", "I am so glad you came."),
        ("“That’s great.”", "stop", "That’s great."),
        ("'Tis the season.", "stop", "'Tis the season."),
        ('"Yes," she said, "no."', "stop", '"Yes," she said, "no."'),
        ("Unfinished but ended by itself", "stop", "Unfinished but ended by itself"),
        ("One thing. Two things! And then the", "length", "One thing. Two things!"),
        ("It costs 3.50 and that is", "length", ""),
        ("No sentence ends here at all", "length", ""),
        ("Three things: 1. milk and", "length", ""),
        ("Yes I do, thanks to Mr. Jones, who really", "length", ""),
        ("I met him when I lived in St. Louis with", "length", ""),
        ("Sure. It is Prof. Lee vs. Dr. Green, i.e. two of", "length", "Sure."),
        ("Good. We have tea, milk etc. and you (e.g. Tom", "length", "Good."),
        ("Oh! It is by J. K. Rowling from the U.S. and", "length", "Oh!"),
        ("So did I. It was the best. But", "length", "So did I. It was the best."),
        ("You saw me in '06. And then", "length", "You saw me in '06."),
        ("Yes, Mr. Jones did", "stop", "Yes, Mr. Jones did"),
        ('"I love it. I really', "length", "I love it."),
        ("She said “go.” And then", "length", "She said “go.”"),
        ("Whole sentence.", "length", "Whole sentence."),
        ("", "stop", ""),
    ],
)
def test_tidy(text, finish, tidied):
    assert tidy(text, finish) == tidied


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("text", ["Oh, how\nlovely! And", '"A. B', "“Yes.” No. May", "1. One. 2. Tw"])
def test_tidy_twice_is_tidy_once(text, finish):
    once = tidy(text, finish)
    assert tidy(once, finish) == once


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("", "too_long", "too_long"),
        ("", "stop", "empty"),
        ("!!!", "stop", "empty"),
        ("", "length", "truncated"),
        ("(Happy) I'm glad to hear that.", "stop", "label"),
        ("(In a cheerful tone) I was doing it right!", "stop", "label"),
        ("Sad. Well, well.", "stop", "label"),
        ("Happy: so good to see you!", "stop", "label"),
        ("Happy", "stop", "label"),
        ("Emotion: Happy Yes, I love it!", "stop", "label"),
        ("Yes, I love it! Tone: happy", "stop", "label"),
        ("Happy response: Yes, I love it!", "stop", "label"),
        ("A happy reply would be: Yes, I love it!", "stop", "label"),
        ("Yes, I love it! - Happy", "stop", "label"),
        ("Yes, I love it — Happy.", "stop", "label"),
        ("As a happy person, I would say yes.", "stop", "label"),
        ("Yes. As a very happy person, I would say so.", "stop", "label"),
        ("As an AI, I have no feelings.", "stop", "refusal"),
        ("I'm sorry, but I can’t assist with that.", "stop", "refusal"),
        ("I must decline this request.", "stop", "refusal"),
        ("I'm sorry, I must respectfully decline to answer.", "stop", "refusal"),
        ("I cannot answer that question.", "stop", "refusal"),
        ("I cannot answer that question as I do not have feelings.", "stop", "refusal"),
        ("I don’t have personal feelings, but thanks!", "stop", "refusal"),
        ("Here is a response: I missed you too!", "stop", "echo"),
        ("Here's how you could respond: Yes, every day!", "stop", "echo"),
        ("Sure! You could say: me too.", "stop", "echo"),
        ("A possible response would be: Yes, I do.", "stop", "echo"),
        ('One suitable reply could be "Yes, I do."', "stop", "echo"),
        ("Possible response: yes I do.", "stop", "echo"),
        ("User: Hi. Assistant: Yes I do.", "stop", "echo"),
        ("**Human:** Hi. **AI:** Yes I do.", "stop", "echo"),
        ("Yes I do. gpt: Me too.", "stop", "echo"),
        ("Speaker 2: Yes I do.", "stop", "echo"),
        ("Sure! Here’s a possible reply that fits: me too.", "stop", "echo"),
        ("Response: me too.", "stop", "echo"),
        ("Well, I was just so excited to see you!", "stop", "echo"),
        ("Oh! Well, I was just so excited to see you. Yes.", "stop", "echo"),
        ("So excited to see you!", "stop", "echo"),
        ("The sentence is a classic example of joy.", "stop", "meta"),
        ("This response aligns with the emotional tone of fear.", "stop", "meta"),
        ("That sentence is very emotionally charged.", "stop", "meta"),
        ("I'd be happy to help you craft a response.", "stop", "meta"),
        ("What can I help you with today?", "stop", "meta"),
        ("Dear [Your Name], I am here.", "stop", "meta"),
        (WORKED_EXAMPLES[0][2], "stop", "example"),
        ("Oh, how lovely! I was hoping we would sit there. Yes.", "stop", "example"),
        ("Yes! Oh how lovely, I was hoping we would sit there!", "stop", "example"),
        ("I missed you too!", "stop", "duplicate"),
    ],
)
def test_unusable(text, finish, reason):
    others = ["I missed you, too."] if reason == "duplicate" else []
    assert reason in REASONS
    assert usable(text, finish, SENTENCE, "Happy", others) == (False, reason)


@pytest.mark.parametrize(
    "text",
    [
        "I missed you too!",
        "I'm sorry, but I can't come tonight.",
        "Happy birthday, by the way!",
        "I'm so angry with you right now!",
        "Here's my number, call me.",
        "The answer is no.",
        "This is the best day of my life.",
        "I can't help it, I missed you.",
        "I'm so happy for you!",
        "I'm just so - happy!",
        "You strike me as a happy person.",
        "What a happy response!",
        "I cannot answer the phone right now.",
        "I must decline your invitation.",
        "I don't have feelings for him.",
        "You could say that again!",
        "You could say it was fun: we laughed.",
        "I would say: go for it!",
        "I hear you. Person: that is what she called me.",
        "I don't have feelings like that anymore.",
        "A possible answer, but not mine.",
        "I have a new assistant: Tom.",
        "Oh, how lovely!",
        "I was hoping we would sit there.",
        "Excited? You hid behind the door (again).",
    ],
)
def test_usable(text):
    assert usable(text, "stop", SENTENCE, "Happy", ["Nice."]) == (True, "")


def test_a_short_sentence_is_repeated_only_alone():
    assert usable("Hi.", "stop", "Hi!", "Calm") == (False, "echo")
    assert usable("Hi, come on in.", "stop", "Hi!", "Calm") == (True, "")


def test_a_short_worked_reply_counts_only_alone(monkeypatch):
    monkeypatch.setattr("model.candidates.usable.WORKED_EXAMPLES", [("Sad", "He left.", "Oh no, really?")])
    assert usable("Oh no. Really?", "stop", SENTENCE, "Sad") == (False, "example")
    assert usable("Oh no, really? When?", "stop", SENTENCE, "Sad") == (True, "")


def test_words_of_the_task_may_come_from_the_sentence():
    assert usable("A life sentence? For that?", "stop", "He got a life sentence.", "Sad") == (True, "")
    assert usable("A life sentence? For that?", "stop", "He is gone.", "Sad") == (False, "meta")
