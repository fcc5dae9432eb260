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
    write_mp4(tmp_path / "clips/i01/01.mp4", film, 10, np.zeros(16_000), 16_000, 1)
    (tmp_path / "clips/i02/01.mp4").write_bytes(b"no film at all" * 100)
    items = [item(1, clip="i01/01.mp4"), item(2, clip="i02/01.mp4")]
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
            broken = "no film" in (folder / f"clips/i0{_item(folder, number)}/01.mp4").read_bytes()[
                :20
            ].decode("latin1")
            page.run("document.getElementById('play').click()")
            told = "cannot be played|could not be played" if broken else "whole conversation"
            page.until(f"/{told}/.test(document.getElementById('film-state').textContent)")
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
    events = rows(folder, "select item, turn, kind from events order by id")
    assert ("i01", 1, "ended") in events and ("i02", 1, "error") in events


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
