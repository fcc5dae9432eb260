"""The study's server, asked over the network as browsers ask it: what people see, do, and may not do."""

import json
import re
import sqlite3
import time
from contextlib import closing

import pytest

from storage.errors import InputError
from tasks.local_server import is_local
from tasks.study.journal import opened
from tasks.study.judgements import collect
from tasks.study.participants import Dismissed, NoPlace, sent_by_prolific
from tasks.study.serve import serve
from tasks.study.status import give_back, place_rows
from tests.support.participants import begin, click, client, judge_all, replies_of, served
from tests.support.small_study import SYSTEMS, item, small_study

HOSTILE = "\x1b[31m<script>alert(1)</script>\u202egnol\x00 👩‍👩‍👧 \ufeff" + "many words " * 9000 + "\x7f"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that is served, its third conversation full of what no page should obey; and a client."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "clips" / "i01").mkdir(parents=True)
    (folder / "clips" / "i01" / "01.mp4").write_bytes(bytes(range(256)) * 8)
    items = [item(1, clip="i01/01.mp4"), item(2), item(3, **{"5-epo": HOSTILE}), item(4), item(5)]
    made, access = small_study(folder, items, participants=6, checks=1)
    with served(folder) as address, client(address) as http:
        yield folder, made, access, http


def rows(folder, query="select participant, item, system, question, value from judgements order by id"):
    with closing(sqlite3.connect(folder / "judgements.sqlite")) as connection:
        return connection.execute(query).fetchall()


def test_a_participant_judges_all_and_is_given_the_code(study):
    folder, made, access, http = study
    token = access.tokens[0]
    first = http.get(f"/s/{token}")
    assert (
        first.status_code == 200
        and "Each reply by itself" in first.text
        and "guidelines" not in first.url.path
    )
    assert http.get(f"/s/{token}/1").headers["location"] == f"/s/{token}"  # guidelines come first
    wrong = http.post(f"/s/{token}", data={"understood": "best", "agree": "yes"})
    assert wrong.status_code == 422 and 'role="alert"' in wrong.text
    begin(http, token)
    assert http.get(f"/s/{token}/3").headers["location"] == f"/s/{token}/1"
    assert http.get(f"/s/{token}/done").headers["location"] == f"/s/{token}/1"
    page = http.get(f"/s/{token}/1").text
    for question in made.questions.values():
        assert page.count(question) == len(made.places[0][0].order)
    assert access.completion_code not in page and not any(name in page for name in (*SYSTEMS, *made.run))
    clicks = judge_all(http, token, lambda number, text, question: 3 if "EPO" in text else 1)
    asked = sum(2 * len(seen.order) for seen in made.places[0])
    assert clicks == asked == len(rows(folder))
    done = http.get(f"/s/{token}/done").text
    assert access.completion_code in done
    # What is done is done: the link leads to the end, from any browser, and nothing is judged any more.
    assert http.get(f"/s/{token}/2").headers["location"].endswith("/done")
    assert click(http, token, 1, 0, "empathy", 2, "afterwards").headers["location"].endswith("/done")
    assert len(rows(folder)) == asked
    # Each answer is of the system whose reply stood there; of the third conversation no reply names EPO.
    for _, item_id, system, _, value in rows(folder):
        assert value == (3 if system == "5-epo" and item_id != "i03" else 1), (item_id, system)


def test_without_a_script_a_form_says_the_same(study):
    folder, made, access, http = study
    token, before = access.tokens[1], len(rows(folder))
    begin(http, token)
    page = http.get(f"/s/{token}/1").text
    assert "runs no scripts" in page and re.search(r"<noscript>.*?<video|<noscript><p", page)
    order = made.places[1][0].order
    some = {"0-semantics": "3", "0-empathy": "2"}
    answer = http.post(f"/s/{token}/1", data=some)
    assert answer.headers["location"] == f"/s/{token}/1?missing=true#missing"
    again = http.get(f"/s/{token}/1?missing=true").text
    assert again.count(" checked") == 2 and again.count("please answer") == 2 * len(order) - 2
    assert "Some answers are missing" in again
    everything = {f"{place}-{q}": "1" for place in range(len(order)) for q in made.questions} | some
    answer = http.post(f"/s/{token}/1", data=everything)
    assert answer.headers["location"] == f"/s/{token}/2"
    http.post(f"/s/{token}/1", data=everything)  # sent twice, as after going back: nothing is new
    changed = http.post(f"/s/{token}/1", data=everything | {"0-empathy": "3"})
    assert changed.status_code == 303
    new = rows(folder)[before:]
    assert len(new) == 2 * len(order) + 1 and new[-1][1:] == (made.places[1][0].item, order[0], "empathy", 3)


def test_two_tabs_and_clicks_that_come_twice(study):
    folder, made, access, http = study
    token, before = access.tokens[2], len(rows(folder))
    begin(http, token)
    for _ in range(3):  # the answer was lost on the way, and the click sent again
        assert click(http, token, 1, 0, "empathy", 2, "tab-one-1").status_code == 204
    with client(str(http.base_url)) as other:  # another browser, no cookie
        assert click(other, token, 1, 0, "empathy", 3, "tab-two-1").status_code == 204
        assert other.get(f"/s/{token}/1/answers").json() == {"0-empathy": 3}
    assert http.get(f"/s/{token}/1/answers").json() == {"0-empathy": 3}
    assert len(rows(folder)) == before + 2 and " checked" in http.get(f"/s/{token}/1").text


def test_nobody_sees_what_is_not_theirs(study):
    folder, made, access, http = study
    token = access.tokens[3]
    begin(http, token)
    seen = made.places[3][0]
    filmed = seen.item == "i01"
    for path, status in (
        ("/s/" + "A" * 24, 404),
        (f"/s/{token[:-1]}{'A' if token[-1] != 'A' else 'B'}", 404),
        (f"/s/{token.lower()}", 404),
        (f"/s/{token}/0", 404),
        (f"/s/{token}/6", 404),
        (f"/s/{token}/2/clip/0", 303),  # not yet
        (f"/s/{token}/1/clip/1", 200 if filmed else 404),
        (f"/s/{token}/1/clip/0", 404),  # that turn has none
        (f"/s/{token}/1/clip/..%2f..%2faccess.json", 404),
        (f"/s/{token}/1/clip/-1", 404),
        ("/static/../study.json", 404),
        ("/static/..%2fstudy.json", 404),
        ("/static/study.js", 200),
        ("/access.json", 404),
        ("/study.json", 404),
        ("/docs", 404),
        ("/openapi.json", 404),
        ("/%00", 404),
    ):
        answer = http.get(path)
        assert answer.status_code == status, (path, answer.status_code)
        assert access.completion_code not in answer.text and "default-src 'none'" in str(answer.headers)
    for body, status in (
        (b"", 422),
        (b"[]", 422),
        (b'{"reply": 0}', 422),
        (b'{"reply": 99, "question": "empathy", "value": 2, "click": "abcdefgh"}', 422),
        (b'{"reply": 9, "question": "empathy", "value": 2, "click": "abcdefgh"}', 422),
        (b'{"reply": 0, "question": "empathy", "value": 4, "click": "abcdefgh"}', 422),
        (b'{"reply": 0, "question": "empathy", "value": "2", "click": "abcdefgh"}', 422),
        (b'{"reply": 0, "question": "x", "value": 2, "click": "abcdefgh"}', 422),
        (b'{"reply": 0, "question": "empathy", "value": 2, "click": "\'; drop table judgements"}', 422),
        (b"x" * (1 << 17), 413),
        (b"[" * 50_000, 422),
    ):
        assert http.post(f"/s/{token}/1/judge", content=body).status_code == status, body[:60]
    assert http.post(f"/s/{token}/1", content=b"\xff=\xfe&" * 1000).status_code in (303, 422)
    assert http.get("/").status_code == 200 and "link that you were given" in http.get("/").text
    assert not [row for row in rows(folder) if row[0] == 4]


def test_hostile_texts_are_shown_and_not_obeyed(study):
    folder, made, access, http = study
    token = access.tokens[4]
    begin(http, token)
    judge_all(http, token, lambda *_: 2, range(1, 5))
    pages = [http.get(f"/s/{token}/{n}").text for n in range(1, 6)]
    (page,) = (page for page in pages if "many words" in page)
    (reply,) = (text for text in replies_of(page) if "many words" in text)
    assert len(reply) > 90_000 and "<script>alert" not in page and "&lt;script&gt;" in reply
    assert not re.search("[\x00\x1b\x7f\u202e\ufeff]", page) and "👩‍👩‍👧" in reply


def test_a_clip_comes_in_parts_and_one_that_cannot_be_played_is_noted(study):
    folder, made, access, http = study
    token = access.tokens[5]
    begin(http, token)
    judge_all(http, token, lambda *_: 2, range(1, 5))
    number = next(n for n, seen in enumerate(made.places[5], 1) if seen.item == "i01")
    part = http.get(f"/s/{token}/{number}/clip/1", headers={"range": "bytes=256-511"})
    assert part.status_code == 206 and part.content == bytes(range(256))
    words = http.get(f"/s/{token}/{number}/captions/1")
    assert words.text.startswith("WEBVTT") and "I lost my keys" in words.text
    told = {"turn": 1, "kind": "error", "detail": "4 MEDIA_ELEMENT_ERROR"}
    assert http.post(f"/s/{token}/{number}/event", json=told).status_code == 204
    assert http.post(f"/s/{token}/{number}/event", json=told | {"turn": 7}).status_code == 422
    assert http.post(f"/s/{token}/{number}/event", json=told | {"kind": "x"}).status_code == 422
    assert collect(folder, made).unplayable == {"i01/1": 1}


def test_judgements_can_only_be_added(study):
    folder, *_ = study
    with closing(opened(folder / "judgements.sqlite")) as connection:
        assert connection.execute("pragma synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        for statement in ("update judgements set value = 3", "delete from judgements"):
            with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
                connection.execute(statement)


def test_one_server_a_folder(study, tmp_path):
    folder, *_ = study
    with pytest.raises(InputError, match="another `empamba study serve` has it open"):
        serve(folder, "127.0.0.1", 0, print)
    with pytest.raises(InputError, match="give the folder that `empamba study make` wrote"):
        serve(tmp_path / "none", "127.0.0.1", 0, print)
    assert is_local("127.0.0.1") and is_local("localhost") and is_local("::1")
    assert not is_local("0.0.0.0") and not is_local("::") and not is_local("192.168.0.1")


# Prolific ---------------------------------------------------------------------------------------------


def entry(person: str, session: str = "s") -> str:
    return f"/?PROLIFIC_PID={person}&STUDY_ID=st&SESSION_ID={session}-{person}"


def test_prolific_sends_people_and_places_that_were_returned_are_taken_again(tmp_path):
    made, access = small_study(tmp_path, participants=2, each=1, prolific=True, completion_code="DONE7")
    assert access.tokens == () and access.completion_url.endswith("/complete?cc=DONE7")
    with served(tmp_path) as address, client(address) as http:
        for path in ("/", "/?PROLIFIC_PID=a", "/?PROLIFIC_PID=a%20b&STUDY_ID=s&SESSION_ID=t"):
            assert http.get(path).status_code == 400
        one = http.get(entry("ann")).headers["location"]
        assert http.get(entry("ann")).headers["location"] == one  # in another browser, the same place
        assert http.get(entry("ann", "other")).status_code == 409
        two = http.get(entry("bob")).headers["location"]
        assert one != two and len(one) == len("/s/") + 24
        begin(http, one[3:])
        click(http, one[3:], 1, 0, "empathy", 3, "anns-click")
        full = http.get(entry("cleo"))
        assert full.status_code == 409 and "No place is free" in full.text
        assert "is free for whom Prolific sends next" in give_back(tmp_path, "ann", "")
        with pytest.raises(InputError, match="nobody who is not done is at ann"):
            give_back(tmp_path, "ann", "")
        # Neither her page nor the entry opens what was released, though the place stands empty.
        for path in (one, entry("ann")):
            refused = http.get(path)
            assert refused.status_code == 410 and "This place was given back" in refused.text
        three = http.get(entry("cleo")).headers["location"]
        begin(http, three[3:])
        judge_all(http, three[3:], lambda *_: 2)
        done = http.get(f"{three}/done").text
        assert "https://app.prolific.com/submissions/complete?cc=DONE7" in done
        _, places = place_rows(tmp_path, "https://x.org/")
        assert [(p["place"], p["state"], p["prolific"]) for p in places] == [
            (1, "done", "cleo"), (2, "came", "bob"), (1, "returned", "ann"),
        ]  # fmt: skip
        assert places[1]["link"] == f"https://x.org{two}"
    found = collect(tmp_path, made)
    assert found.counts == {"places": 2, "came": 2, "done": 1, "returned": 1, "inattentive": 0}
    assert len(found.counted) == 1 and len(found.rows) == 7  # ann's click is kept, and does not count
    text = found.as_bytes().decode()
    assert "cleo" not in text and three[3:] not in text and access.completion_code not in text


def test_who_has_gone_away_makes_room_and_goes_on_where_there_still_is_some(tmp_path):
    """By the server's clock alone."""
    made, _ = small_study(tmp_path, participants=1, prolific=True, return_after_h=2)
    now = time.time()
    with closing(opened(tmp_path / "judgements.sqlite")) as c:
        one = sent_by_prolific(c, made, "ann", "st", "s1", now)
        with pytest.raises(NoPlace):
            sent_by_prolific(c, made, "bob", "st", "s2", now + 3600)
        two = sent_by_prolific(c, made, "bob", "st", "s2", now + 3 * 3600)
        assert two.place == one.place and two.token != one.token
        with pytest.raises(NoPlace):  # her place is bob's now
            sent_by_prolific(c, made, "ann", "st", "s1", now + 3 * 3600 + 1)
        three = sent_by_prolific(c, made, "ann", "st", "s1", now + 9 * 3600)
        assert three.place == one.place and three.token not in (one.token, two.token)


def test_a_journal_of_before_places_were_released_by_name(tmp_path):
    """Who was away for long goes on, and what is released from then on stays so."""
    made, _ = small_study(tmp_path, participants=1, prolific=True, return_after_h=2)
    journal, now = tmp_path / "judgements.sqlite", time.time()
    with closing(opened(journal)) as c:
        one = sent_by_prolific(c, made, "ann", "st", "s1", now)
        c.execute("update participants set released = 1")
        c.execute("alter table participants drop column dismissed")
        c.execute("pragma user_version = 1")
    with closing(opened(journal)) as c:
        assert c.execute("pragma user_version").fetchone() == (2,)
        assert sent_by_prolific(c, made, "ann", "st", "s1", now).token == one.token
    give_back(tmp_path, "ann", "")
    with closing(opened(journal)) as c:
        with pytest.raises(Dismissed):
            sent_by_prolific(c, made, "ann", "st", "s1", now)
        assert (
            sent_by_prolific(c, made, "ann", "st", "s2", now).token != one.token
        )  # Prolific let her in again
        c.execute("pragma user_version = 3")
    with pytest.raises(InputError, match=r"written by another version of Empamba \(3\)"):
        opened(journal)


def test_a_link_that_was_given_back_gets_a_new_one(tmp_path):
    made, access = small_study(tmp_path, participants=2)
    with served(tmp_path) as address, client(address) as http:
        begin(http, access.tokens[0])
        click(http, access.tokens[0], 1, 0, "empathy", 3, "first-person")
        line = give_back(tmp_path, "1", address)
        new = line.rsplit("/", 1)[1]
        assert http.get(f"/s/{access.tokens[0]}").status_code == 410
        begin(http, new)
        assert http.get(f"/s/{new}/1/answers").json() == {}
    assert json.loads((tmp_path / "study.json").read_text())["format"] == 1
