"""The study's page in a real browser: keys, saving, films that play and films that do not, a phone's width."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from storage.sample.media import write_mp4
from tests.support.browser import Browser, needs_a_browser
from tests.support.participants import served
from tests.support.small_study import item, small_study

pytestmark = needs_a_browser


@pytest.fixture
def folder(tmp_path):
    for number in (1, 2):
        (tmp_path / "clips" / f"i0{number}").mkdir(parents=True)
    film = np.full((10, 48, 64, 3), 90, dtype=np.uint8)
    for clip in ("i01/00", "i01/01", "i02/01"):
        write_mp4(tmp_path / f"clips/{clip}.mp4", film, 10, np.zeros(16_000), 16_000, 1)
    (tmp_path / "clips/i02/00.mp4").write_bytes(b"no film at all" * 100)
    items = [item(n, first_clip=f"i0{n}/00.mp4", clip=f"i0{n}/01.mp4") for n in (1, 2)]
    small_study(tmp_path, items, participants=1, seed=1)
    return tmp_path


def rows(folder, query):
    with closing(sqlite3.connect(folder / "judgements.sqlite")) as connection:
        return connection.execute(query).fetchall()


def test_a_person_goes_through_it_by_keyboard(folder, tmp_path):
    from tasks.study.study import read_access

    token = read_access(folder).tokens[0]
    with served(folder) as address, Browser(tmp_path / "profile") as page:
        page.go(f"{address}/s/{token}")
        page.run(
            "document.querySelector('input[value=each]').click(); document.querySelector('[name=agree]').click()"
        )
        page.run("document.querySelector('button').click()")
        for number in (1, 2):
            page.until(f"location.pathname.endsWith('/{number}') && document.readyState == 'complete'")
            page.ask(
                "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True
            )
            assert page.run(
                "document.documentElement.scrollWidth <= innerWidth"
            )  # nothing to the side of a phone
            page.ask("Emulation.clearDeviceMetricsOverride")
            page.click("#play")
            page.until("/whole conversation/.test(document.getElementById('film-state').textContent)")
            lost = "1 of 2 clips could not be played" in page.run(
                "document.getElementById('film-state').textContent"
            )
            assert lost == (_item(folder, number) == 2)
            for key in "123123":
                page.press(key)
            page.until("document.getElementById('state').textContent == 'Saved. All is answered here.'")
            assert page.run("document.activeElement.textContent").startswith("Save and")
            page.press("Enter")
        page.until("location.pathname.endsWith('/done')")
        assert page.run("document.querySelector('.code').textContent") == read_access(folder).completion_code
        refused = [p for p in page.problems if "Content Security" in p or "exception" in p.lower()]
        assert not refused
    values = rows(folder, "select value from judgements order by id")
    assert [value for (value,) in values] == [1, 2, 3] * 4
    # Clips come in order, and after one that cannot be played comes the next.
    for name, first in (("i01", "ended"), ("i02", "error")):
        events = rows(folder, f"select turn, kind from events where item = '{name}' order by id")
        assert [event for event in events if event[1] != "stalled"] == [(0, first), (1, "ended")]


def _item(folder, number: int) -> int:
    from tasks.study.study import read_study

    return int(read_study(folder).places[0][number - 1].item[1:])


def test_clicks_that_find_no_server_are_sent_when_it_is_back(folder, tmp_path):
    from tasks.study.study import read_access

    token = read_access(folder).tokens[0]
    with Browser(tmp_path / "profile") as page:
        with served(folder) as address:
            port = int(address.rsplit(":", 1)[1])
            page.go(f"{address}/s/{token}")
            page.run(
                "document.querySelector('input[value=each]').click(); document.querySelector('[name=agree]').click()"
            )
            page.run("document.querySelector('button').click()")
            page.until("location.pathname.endsWith('/1') && document.readyState == 'complete'")
        page.press("3")
        page.press("1")
        page.until("document.getElementById('state').textContent.startsWith('Not saved yet')")
        with served(folder, port):
            page.until("document.getElementById('state').textContent == 'Saved. 4 questions left here.'")
    assert rows(folder, "select value from judgements order by id") == [(3,), (1,)]


def test_an_old_tab_does_not_put_back_what_another_one_changed(folder, tmp_path):
    from tasks.study.study import read_access

    token = read_access(folder).tokens[0]
    shown = "document.querySelector('input[name=\"0-semantics\"]:checked').value"
    with served(folder) as address, Browser(tmp_path / "profile") as page:
        page.go(f"{address}/s/{token}")
        page.run(
            "document.querySelector('input[value=each]').click(); document.querySelector('[name=agree]').click()"
        )
        page.run("document.querySelector('button').click()")
        page.until("location.pathname.endsWith('/1') && document.readyState == 'complete'")
        page.press("1")
        page.until("document.getElementById('state').textContent == 'Saved. 5 questions left here.'")
        old, _ = page.tab, page.new_tab()
        page.go(f"{address}/s/{token}/1")
        page.run('document.querySelector(\'input[name="0-semantics"][value="3"]\').click()')
        page.until("document.getElementById('state').textContent == 'Saved. 5 questions left here.'")
        page.tab = old
        assert page.run(shown) == "1"
        page.run("unanswered().forEach((group) => group.querySelector('input[value=\"2\"]').click())")
        page.until("document.getElementById('state').textContent == 'Saved. All is answered here.'")
        page.run("document.querySelector('#judging button').click()")
        page.until("location.pathname.endsWith('/2')")
        page.go(f"{address}/s/{token}/1")
        assert page.run(shown) == "3"
    assert [value for (value,) in rows(folder, "select value from judgements order by id")] == [1, 3] + 5 * [
        2
    ]
