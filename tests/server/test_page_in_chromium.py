"""The page in a real browser: it chats, it shows the engine, by keyboard and on a phone too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from support.chromium import Browser, Keys, chromium, missing
from support.live_server import LiveServer, live_server
from support.serve_command import serve

from octavo.server.config import ServerConfig

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

pytestmark = pytest.mark.browser
PIXELS = "return document.querySelector(arguments[0] + ' canvas').toDataURL()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def slow() -> Iterator[LiveServer]:
    with live_server(ServerConfig(page_show_text=True), step_seconds=0.02) as server:
        yield server


@pytest.fixture
def page(browser: Browser, slow: LiveServer) -> Iterator[Browser]:
    """The page, as new, which has nothing to complain about in the end."""
    browser.resize(1280, 900)
    browser.emulate(prefers_color_scheme="light")
    browser.open(f"{slow.url}/page/mark.svg")  # Of the same origin, whose storage is emptied.
    browser.run("sessionStorage.clear(); localStorage.clear()")
    browser.complaints()
    browser.open(f"{slow.url}/")
    browser.wait(lambda: browser.get("status").get_attribute("data-state") == "live")
    yield browser
    assert browser.complaints() == []


def ask(browser: Browser, text: str, max_tokens: int, seed: int | None = 1) -> None:
    """Type a message and press Enter."""
    for id, value in (("max-tokens", max_tokens), ("seed", "" if seed is None else seed)):
        browser.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            browser.get(id),
            str(value),
        )
    browser.get("prompt").send_keys(text, Keys.ENTER)


def answers(browser: Browser) -> list[str]:
    return [element.text for element in browser.find(".turn.assistant .body")]


def is_done(browser: Browser) -> bool:
    return browser.get("send").is_displayed()


def held(browser: Browser) -> int:
    """Blocks that the small grid says are held."""
    found = re.match(r"(\d+) blocks? held", browser.get("mini-figures").text)
    return int(found[1]) if found else -1


def test_a_chat_with_the_demo_model_and_its_blocks(demo_model: Path, browser: Browser) -> None:
    pytest.importorskip("octavo._native", reason="the kernels are not built")
    with serve(demo_model) as command:
        browser.resize(1280, 900)
        browser.complaints()
        browser.open(f"{command.url}/")
        browser.wait(lambda: held(browser) == 0)
        empty = browser.run(PIXELS, "#mini-grid")
        ask(browser, "What is the capital of Germany? Then write a long story about it.", 200)
        seen = {browser.wait(lambda: answers(browser)[0].strip("…")) for _ in range(2)}
        browser.wait(lambda: held(browser) > 0)
        assert browser.run(PIXELS, "#mini-grid") != empty
        browser.wait(lambda: seen.add(answers(browser)[0]) or len(seen) > 3 or is_done(browser))
        assert len(seen) > 3, "the text does not come in parts"
        browser.wait(lambda: is_done(browser), 60)
        assert "Berlin" in answers(browser)[0]
        assert re.search(r"\d+ tokens · [\d.]+ per second · first after", browser.text(".turn .note"))
        browser.wait(lambda: held(browser) == 0)
        assert browser.run(PIXELS, "#mini-grid") != empty, "the cache keeps blocks"
        assert browser.complaints() == []


def test_the_live_view_follows_a_request(page: Browser) -> None:
    before = page.run(PIXELS, "#mini-grid")
    ask(page, "Tell me a story that is long enough to look at.", 120)
    page.get("tab-live").click()
    page.wait(lambda: page.find("#batch .sequence"))
    assert page.text("#batch .own") == "yours"
    assert re.search(r"prompt \d+.* · generated \d+ of at most 120 · \d+ blocks", page.text("#batch"))
    page.wait(lambda: page.text("#step-figures").startswith("1 token in this step"))
    grid = page.run(PIXELS, "#grid")
    page.wait(lambda: page.run(PIXELS, "#grid") != grid)
    page.wait(lambda: re.search(r"[1-9][\d.]* per second|^[1-9]", page.text(".tile:first-child dd")))
    page.wait(lambda: page.text("#queue + .note") == "Nobody waits.")
    page.wait(lambda: "No sequence runs." in page.text("#batch + .note"))
    page.wait(
        lambda: page.find("#charts canvas")[0].get_attribute("aria-label") != "Generated tokens per second"
    )
    page.get("tab-chat").click()
    assert page.run(PIXELS, "#mini-grid") != before


def test_what_is_under_the_pointer_and_under_the_keys(page: Browser) -> None:
    ask(page, "Fill some blocks, please, and then some more of them.", 150)
    page.get("tab-live").click()
    page.wait(lambda: page.find("#batch .sequence"))
    canvas = page.find("#grid canvas")[0]
    cells = [page.run("return document.querySelector('#grid canvas').width / devicePixelRatio / 16 / 3")]
    page.hover(canvas, cells[0] / 2, 5)
    page.wait(lambda: page.get("tip").is_displayed())
    assert page.get("tip").text.startswith("Block 0")
    page.run("arguments[0].focus()", canvas)
    page.press(Keys.ARROW_RIGHT)
    page.wait(lambda: "Block 1" in page.get("tip").text)
    assert "Block 1" in page.find("#grid .hidden")[0].get_attribute("textContent")
    page.press(Keys.ESCAPE)
    page.wait(lambda: not page.get("tip").is_displayed())
    page.wait(lambda: not page.find("#batch .sequence"))


def test_stop_regenerate_and_several_turns(page: Browser) -> None:
    ask(page, "A first question that takes a while to answer.", 150)
    page.wait(lambda: len(answers(page)[0]) > 5)
    page.press(Keys.ESCAPE)
    page.wait(lambda: is_done(page))
    assert "stopped" in page.text(".turn .note")
    page.wait(lambda: held(page) == 0)

    page.find(".turn .again")[0].click()
    page.wait(lambda: not is_done(page))
    page.get("stop").click()
    page.wait(lambda: is_done(page))
    assert len(page.find(".turn")) == 2

    ask(page, "And a second one.", 12)
    page.wait(lambda: is_done(page) and len(answers(page)) == 2)
    [first, second] = answers(page)
    page.find(".turn:last-child .again")[0].click()
    page.wait(lambda: not is_done(page))
    page.wait(lambda: is_done(page))
    assert answers(page) == [first, second], "the same seed, another answer"
    assert "from the cache" in page.text(".turn:last-child .note")

    page.driver.refresh()
    page.wait(lambda: answers(page) == [first, second])
    page.get("new-chat").click()
    assert not page.find(".turn")
    assert page.get("empty").is_displayed()


def test_prefixes_with_their_words(page: Browser) -> None:
    ask(page, "The same beginning, again and again, and then apples.", 4)
    page.wait(lambda: is_done(page))
    page.get("new-chat").click()
    ask(page, "The same beginning, again and again, and then pears.", 4)
    page.wait(lambda: is_done(page))
    page.get("tab-tree").click()
    page.wait(lambda: "The same b" in page.text(".words"))
    branches = len(page.find(".node details[open] li"))
    assert branches >= 2
    page.run(
        "[...document.querySelectorAll('.node summary')]"
        ".find(each => each.textContent.includes(arguments[0])).focus()",
        "The same b",
    )
    page.press(Keys.ENTER)
    page.wait(lambda: len(page.find(".node details[open] li")) < branches)


def test_an_error_is_shown_and_can_be_tried_again(page: Browser) -> None:
    ask(page, "Too much to ask for.", 5000)
    page.wait(lambda: page.find(".error"))
    assert "max_tokens" in page.text(".error")
    assert any("400" in complaint for complaint in page.complaints())
    page.run("document.getElementById('max-tokens').value = 4")
    page.find(".error button")[0].click()
    page.wait(lambda: answers(page)[0] and is_done(page))
    assert not page.find(".error")


def test_the_keyboard_is_enough(page: Browser) -> None:
    page.run("document.activeElement.blur()")
    page.press(Keys.TAB)
    assert page.driver.switch_to.active_element.text == "Skip to the content"
    page.press(Keys.TAB)
    assert page.driver.switch_to.active_element.get_attribute("id") == "tab-chat"
    for key, name in (
        (Keys.ARROW_RIGHT, "live"),
        (Keys.END, "tree"),
        (Keys.ARROW_RIGHT, "chat"),
        (Keys.HOME, "chat"),
    ):
        page.press(key)
        assert page.driver.switch_to.active_element.get_attribute("id") == f"tab-{name}"
        assert page.get(f"panel-{name}").is_displayed()
        assert len([panel for panel in page.find(".panel") if panel.is_displayed()]) == 1
    nameless = page.run(
        "return [...document.querySelectorAll('button, a, [role=img], [role=tab]')]"
        ".filter(e => !(e.textContent.trim() || e.getAttribute('aria-label'))).map(e => e.outerHTML)"
    )
    assert nameless == []


def test_light_and_dark(page: Browser) -> None:
    def background() -> str:
        return str(page.run("return getComputedStyle(document.body).backgroundColor"))

    light = background()
    page.emulate(prefers_color_scheme="dark")
    page.wait(lambda: background() != light)
    dark = background()
    page.get("theme-button").click()
    page.wait(lambda: background() == light)
    page.driver.refresh()
    assert background() == light, "the choice is kept"
    page.get("theme-button").click()
    page.emulate(prefers_color_scheme="light")
    page.wait(lambda: background() == dark)
    page.get("theme-button").click()
    page.wait(lambda: background() == light)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_on_any_screen(page: Browser, width: int) -> None:
    page.resize(width, 760, mobile=width < 500)
    ask(page, "A word thatisverylongandhasnospacesatallsothatitwouldstickout" * 2, 20)
    page.wait(lambda: is_done(page))
    for name in ("chat", "live", "tree"):
        page.get(f"tab-{name}").click()
        assert page.run("return document.documentElement.scrollWidth <= innerWidth"), name
        wide = page.run(
            "return [...document.querySelectorAll('main *')].filter(e => e.offsetParent && "
            "!e.closest('pre, .hidden, .tip, svg') && e.getBoundingClientRect().right > innerWidth + 1)"
            ".map(e => e.className || e.tagName)"
        )
        assert wide == [], name


def test_everything_comes_from_the_server(page: Browser, slow: LiveServer) -> None:
    names = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert names
    assert all(name.startswith(slow.url) for name in names)
    page.run("const s = document.createElement('script'); s.text = 'window.ran = 1'; document.body.append(s)")
    assert page.run("return window.ran") is None
    assert any("Content Security Policy" in complaint for complaint in page.complaints())


def test_it_asks_for_the_key(browser: Browser) -> None:
    with live_server(ServerConfig(api_key=("secret",))) as server:
        browser.resize(1280, 900)
        browser.open(f"{server.url}/")
        browser.wait(lambda: browser.get("key-dialog").is_displayed())
        browser.get("key").send_keys("wrong", Keys.ENTER)
        browser.wait(lambda: "does not know this key" in browser.get("key-note").text)
        browser.get("key").send_keys("secret", Keys.ENTER)
        browser.wait(lambda: browser.get("status").get_attribute("data-state") == "live")
        ask(browser, "Hello", 4)
        browser.wait(lambda: answers(browser) and answers(browser)[0] and is_done(browser))
        assert browser.run("return localStorage.getItem('octavo.key')") is None
    browser.complaints()
