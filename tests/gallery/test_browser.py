"""The pages in a browser: from the store over HTTP, and from a folder with a copy of the bucket."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from luma_pipeline.sandbox.s3 import ObjectStore
from tests.e2e.browser import Browser
from tests.gallery.scene import Scene
from tests.gallery.test_pages import HOSTILE

DAY, MANY, EMPTY, BAD = "date=2024-12-24", "date=2024-12-23", "date=2024-12-22", "date=2024-12-21"


@dataclass
class Site:
    """A gallery as a browser finds it: `base` is what lies below the bucket's prefix."""

    base: str

    def page(self, day: str = DAY) -> str:
        return f"{self.base}/_gallery/{day}/index.html"

    @property
    def index(self) -> str:
        return f"{self.base}/_gallery/index.html"


@pytest.fixture(scope="module")
def sites(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Site]:
    directory = tmp_path_factory.mktemp("site")
    object_store.create_bucket("site")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in object_store.environment().items():
            patched.setenv(name, value)
        scene = Scene(directory, object_store, "site", prefix="a b/ü")
        _fill(scene)
        scene.publish()
    copy = scene.download(directory / "copy")
    return {
        "http": Site(f"{object_store.endpoint_url}/site/a%20b/%C3%BC"),
        "file": Site(copy.as_uri()),
    }


def _fill(scene: Scene) -> None:
    """One day with every kind of task, one with many, an empty one, and one of hostile prompts."""
    videos = [
        *scene.upload("fox"),
        *scene.upload("owl", "video", "thumbnail"),
        *scene.upload("elk"),
        {"task_id": "gone", "artifact": "video", "status": "expired", "error_message": "410 from the CDN"},
        {**scene.upload("lost")[0], "size_bytes": 5},
    ]
    scene.client.delete_object(Bucket=scene.bucket, Key=videos[-1]["key"])
    tasks: list[dict[str, Any]] = [
        {"task_id": "fox", "request_prompt": "A quick FOX", "video_raw_duration": 2.0},
        {"task_id": "owl", "request_prompt": "An owl at the café", "video_raw_duration": 9.0},
        {"task_id": "elk", "request_prompt": "An elk at the lake", "video_raw_duration": 4.0},
        {"task_id": "gone", "request_prompt": "A ghost"},
        {"task_id": "lost", "request_prompt": "A coin in a river"},
        {"task_id": "open", "request_prompt": "A slow snail", "state": "processing"},
        {"task_id": "bad", "request_prompt": "A knight", "state": "failed", "failure_reason": "rejected by moderation"},
        {"task_id": "none", "request_prompt": None, "outcome": "not_found", "state": None, "error_message": "unknown"},
    ]
    for number, task in enumerate(tasks):
        task["created_at"] = datetime(2024, 12, 24, 10, number, tzinfo=UTC)
    scene.put(DAY, tasks, videos)
    (row,) = scene.upload("copy")
    names = [f"many-{number:04}" for number in range(1000)]
    scene.put(MANY, [{"task_id": name} for name in names], [{**row, "task_id": name} for name in names])
    scene.put(EMPTY, [], [])
    scene.put(
        BAD, [{"task_id": f"{n} {text}", "request_prompt": text} for n, text in enumerate(HOSTILE)], scene.upload("x")
    )
    scene.write(DAY, MANY, EMPTY, BAD)


@pytest.fixture(params=["http", "file"])
def site(sites: dict[str, Site], request: pytest.FixtureRequest) -> Site:
    return sites[request.param]


@pytest.fixture(autouse=True)
def _as_at_first(browser: Browser) -> Iterator[None]:
    yield
    driver = browser.driver
    driver.execute_script("try { localStorage.clear() } catch {}")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def emulate(browser: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def wait(browser: Browser, condition: Callable[[], object], message: str = "") -> None:
    WebDriverWait(browser.driver, 30).until(lambda _: condition(), message=message)


def run(browser: Browser, script: str, *arguments: object) -> Any:
    return browser.driver.execute_script(script, *arguments)


def shown(browser: Browser) -> list[str]:
    """The task IDs of the cards that are shown, in their order."""
    found: list[str] = run(
        browser, "return [...document.querySelectorAll('.card .id')].map((part) => part.textContent)"
    )
    return found


def focused(browser: Browser) -> str:
    found: str = run(browser, "return document.activeElement.closest('.card')?.querySelector('.id').textContent ?? ''")
    return found


def press(browser: Browser, *keys: str) -> None:
    for key in keys:
        browser.driver.switch_to.active_element.send_keys(key)


def console(browser: Browser) -> list[str]:
    """What the browser has said in its console since the last call."""
    lines: list[dict[str, str]] = browser.driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [line["message"] for line in lines]


def by_id(browser: Browser, name: str) -> WebElement:
    return browser.driver.find_element("id", name)


def test_first_frames_and_thumbnails_show_and_nothing_is_asked_of_others(browser: Browser, site: Site) -> None:
    console(browser)
    browser.open(site.page(), expect="8 shown")
    frames = (
        "return [...document.querySelectorAll('.shot video')].map((clip) => clip.readyState >= 2 && clip.videoWidth)"
    )
    wait(browser, lambda: len(found := run(browser, frames)) == 2 and all(found), "the first frames never showed")
    assert run(browser, "return document.querySelector('.shot img').naturalWidth") > 0
    wait(browser, lambda: "The file cannot be loaded" in browser.text(), "nothing says that a file is gone")
    loaded = run(browser, "return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [address for address in loaded if not address.startswith((site.base, "data:"))] == []
    complaints = [line for line in console(browser) if "lost/video.mp4" not in line]
    assert complaints == []


def test_the_index_leads_to_a_page_and_the_page_back(browser: Browser, site: Site) -> None:
    text = browser.open(site.index, expect="4 shown")
    assert "Tuesday, 24 December 2024" in text
    assert "1,000 tasks" in text
    pictures = "return [...document.querySelectorAll('.covers img, .covers video')]"
    ready = f"{pictures}.slice(0, 4).map((part) => part.naturalWidth || part.videoWidth || 0)"
    wait(browser, lambda: all(run(browser, ready)), "the covers never showed")
    run(browser, "document.querySelector('.day a').click()")
    browser.wait_for_text("8 shown")
    run(browser, "document.querySelector('nav a').click()")
    browser.wait_for_text("4 shown")


def test_search_filter_and_sort_work_together(browser: Browser, site: Site) -> None:
    browser.open(site.page(), expect="8 shown")
    everything = shown(browser)
    assert everything == ["fox", "owl", "elk", "gone", "lost", "open", "bad", "none"]
    query = by_id(browser, "query")
    for words, found in (
        ("fox", ["fox"]),
        ("CAFE", ["owl"]),
        ("at the", ["owl", "elk"]),
        ("lake at", ["elk"]),
        ("moderation", ["bad"]),
        ("410", ["gone"]),
        (".*", []),
    ):
        query.clear()
        query.send_keys(words)
        wait(browser, lambda found=found: shown(browser) == found, words)  # type: ignore[misc]
    assert "Nothing matches" in browser.text()
    assert by_id(browser, "count").text == "0 of 8 shown"
    by_id(browser, "reset").click()
    assert shown(browser) == everything
    browser.driver.find_element("css selector", "#chips button:nth-child(2)").click()
    assert by_id(browser, "count").text == "4 of 8 shown"
    for order, found in (
        ("-time", ["lost", "elk", "owl", "fox"]),
        ("-seconds", ["owl", "elk", "fox", "lost"]),
        ("seconds", ["fox", "elk", "owl", "lost"]),
        ("bytes", ["lost"]),
    ):
        run(
            browser,
            "const sort = document.getElementById('sort'); sort.value = arguments[0];"
            "sort.dispatchEvent(new Event('change'))",
            order,
        )
        assert shown(browser)[: len(found)] == found, order


def test_everything_can_be_done_with_the_keyboard(browser: Browser, site: Site) -> None:
    browser.open(site.page(), expect="8 shown")
    press(browser, "/")
    assert run(browser, "return document.activeElement.id") == "query"
    press(browser, "an", Keys.ESCAPE)
    assert by_id(browser, "query").get_attribute("value") == ""
    run(browser, "document.querySelector('.shot').focus()")
    columns = run(browser, "return getComputedStyle(grid).gridTemplateColumns.split(' ').length")
    names = shown(browser)
    for key, place in (
        (Keys.ARROW_RIGHT, 1),
        (Keys.ARROW_LEFT, 0),
        (Keys.ARROW_LEFT, 0),
        (Keys.ARROW_DOWN, columns),
        (Keys.ARROW_UP, 0),
        (Keys.END, len(names) - 1),
        (Keys.HOME, 0),
    ):
        press(browser, key)
        assert focused(browser) == names[place]
    press(browser, Keys.ARROW_RIGHT, Keys.ENTER)
    assert run(browser, "return viewer.open")
    assert "2 of 8" in by_id(browser, "viewer").text
    assert "An owl at the café" in by_id(browser, "viewer").text
    assert run(browser, "return viewer.contains(document.activeElement)")
    press(browser, Keys.ARROW_RIGHT)
    assert "An elk at the lake" in by_id(browser, "viewer").text
    wait(browser, lambda: run(browser, "return stage.querySelector('video').readyState > 0"))
    press(browser, Keys.ESCAPE)
    assert not run(browser, "return viewer.open")
    wait(browser, lambda: focused(browser) == "elk")
    assert run(browser, "return document.querySelectorAll('.shot[tabindex=\"0\"]').length") == 1


def test_hostile_prompts_run_nothing_and_add_no_element(browser: Browser, site: Site) -> None:
    browser.open(site.page(BAD), expect="shown")
    for place in range(len(HOSTILE)):
        run(browser, "document.querySelectorAll('.shot')[arguments[0]].click()", place)
        assert run(browser, "return document.querySelector('#details .prompt').textContent") == HOSTILE[place]
        run(browser, "viewer.close()")
    with pytest.raises(NoAlertPresentException):
        _ = browser.driver.switch_to.alert.text
    assert run(browser, "return document.querySelectorAll('.prompt *, .id *, .shot script, img').length") == 0
    assert run(browser, "return document.scripts.length") == 2
    assert run(browser, "return getComputedStyle(document.body).display") == "block"


def test_a_script_that_got_into_the_page_would_not_run(browser: Browser, site: Site) -> None:
    browser.open(site.page(), expect="8 shown")
    run(
        browser,
        "const bad = document.createElement('div'); bad.innerHTML = '<img src=x onerror=\"window.ran = 1\">';"
        "const code = document.createElement('script'); code.textContent = 'window.ran = 2';"
        "document.body.append(bad, code)",
    )
    time.sleep(0.3)
    assert run(browser, "return window.ran ?? null") is None
    assert any("Content Security Policy" in line for line in console(browser))


def test_dark_and_light_follow_the_system_until_somebody_chooses(browser: Browser, site: Site) -> None:
    def ground() -> int:
        colour: list[int] = run(
            browser, "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
        )
        return sum(colour[:3])

    emulate(browser, "dark")
    browser.open(site.page(), expect="8 shown")
    assert ground() < 150
    emulate(browser, "light")
    assert ground() > 600
    button = by_id(browser, "theme")
    button.click()
    assert ground() < 150
    assert button.get_attribute("aria-pressed") == "true"
    browser.open(site.index, expect="4 shown")
    assert ground() < 150, "the choice is forgotten"


def test_without_scripts_the_list_is_all_there(browser: Browser, site: Site) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.driver.get(site.page())
    body = browser.driver.find_element("tag name", "body").text
    for words in ("A quick FOX", "rejected by moderation", "410 from the CDN", "10:06", "processing"):
        assert words in body
    assert not browser.driver.find_element("id", "query").is_displayed()
    links = [link.get_attribute("href") for link in browser.driver.find_elements("css selector", ".shot[href]")]
    assert f"{site.base}/fox/video.mp4" in links


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_every_text_has_contrast(
    browser: Browser, sites: dict[str, Site], scheme: str
) -> None:
    site = sites["http"]
    emulate(browser, scheme)
    for address, expect in ((site.index, "4 shown"), (site.page(), "8 shown"), (site.page(EMPTY), "No task was")):
        browser.open(address, expect=expect)
        assert run(browser, _FAULTS) == []
        assert run(browser, "return [document.documentElement.lang, document.querySelectorAll('main, h1').length]") == [
            "en",
            2,
        ]
        assert browser.driver.title
    browser.open(site.page(), expect="8 shown")
    run(browser, "document.querySelectorAll('.shot')[6].click()")
    assert run(browser, _FAULTS) == []


@pytest.mark.parametrize("width", [320, 390, 820, 2200])
def test_no_width_needs_to_be_scrolled_sideways(browser: Browser, sites: dict[str, Site], width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for address, expect in ((sites["http"].index, "4 shown"), (sites["http"].page(), "8 shown")):
        browser.open(address, expect=expect)
        assert run(browser, "return document.documentElement.scrollWidth <= innerWidth")


def test_a_thousand_tasks_load_only_the_frames_that_are_near(browser: Browser, site: Site) -> None:
    browser.open(site.page(MANY), expect="1,000 shown")
    near = "return [...document.querySelectorAll('.shot video')].filter((clip) => clip.preload === 'metadata').length"
    wait(browser, lambda: 0 < run(browser, near) < 100)
    assert len(shown(browser)) < 500, "all cards are laid out at once"
    run(browser, "document.querySelector('.shot').focus()")
    press(browser, Keys.END)
    assert focused(browser) == "many-0999"
    last = "const all = document.querySelectorAll('.shot video'); return all[all.length - 1].videoWidth > 0"
    wait(browser, lambda: run(browser, last), "the last frame never showed")
    # Players that are far away again are given back.
    wait(browser, lambda: run(browser, near) < 100)
    by_id(browser, "query").send_keys("0999")
    wait(browser, lambda: shown(browser) == ["many-0999"])


def test_a_link_that_is_opened_with_a_modifier_is_the_browser_s(browser: Browser, site: Site) -> None:
    browser.open(site.page(), expect="8 shown")
    event = "new MouseEvent('click', {ctrlKey: arguments[0], bubbles: true, cancelable: true})"
    stop = (
        "const shot = document.querySelector('.shot'); addEventListener('click', (event) => {"
        "window.taken = event.defaultPrevented; event.preventDefault() }, {once: true});"
    )
    run(browser, f"{stop} shot.dispatchEvent({event})", True)
    assert run(browser, "return [window.taken, viewer.open]") == [False, False]
    run(browser, f"{stop} shot.dispatchEvent({event})", False)
    assert run(browser, "return [window.taken, viewer.open]") == [True, True]


# Names of controls, alternative texts of pictures, unique IDs, and the contrast of text by WCAG 2.2, 1.4.3.
_FAULTS = Path(__file__).with_name("faults.js").read_text()
