"""A headless Chromium that looks at Dagster's UI and keeps what it saw as screenshots."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.programs import program


class Browser:
    """Debian's Chromium on Debian's chromedriver; a context manager.

    Parameters
    ----------
    screenshots
        The folder for `screenshot(name)`; made if it is not there.
    width, height
        Of the window, in CSS pixels.
    """

    def __init__(self, screenshots: Path, *, width: int = 1600, height: int = 1000) -> None:
        self._screenshots = screenshots
        self._size = (width, height)
        self._driver: webdriver.Chrome | None = None

    def __enter__(self) -> Browser:
        options = Options()
        options.binary_location = program("chromium", "chromium")
        driver = program("chromedriver", "chromium-driver")
        width, height = self._size
        # The sandbox needs user namespaces, which containers deny; /dev/shm is too small there for a renderer.
        for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
            options.add_argument(f"--{argument}")
        options.add_argument(f"--window-size={width},{height}")
        # Background requests of the browser itself have nowhere to go on a machine without a network.
        options.add_argument("--disable-background-networking")
        self._driver = webdriver.Chrome(options=options, service=Service(driver))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.driver.quit()

    @property
    def driver(self) -> webdriver.Chrome:
        """Selenium's own driver."""
        if self._driver is None:
            raise RuntimeError("the browser has not been opened")
        return self._driver

    def open(self, url: str, *, expect: str, timeout: float = 60) -> str:
        """Load a page and wait until its text contains `expect`; returns the text a person would read."""
        self.driver.get(url)
        return self.wait_for_text(expect, timeout=timeout)

    def open_until(self, url: str, *, expect: str, timeout: float = 120) -> str:
        """The same for a page that does not change by itself: it is opened again until it says `expect`."""
        ends_at = time.monotonic() + timeout
        while True:
            try:
                return self.open(url, expect=expect, timeout=15)
            except TimeoutException:
                if time.monotonic() > ends_at:
                    raise

    def wait_for_text(self, expect: str, *, timeout: float = 60) -> str:
        """Wait until the page's text contains `expect`; raises selenium's TimeoutException with the text there was."""
        wait = WebDriverWait(self.driver, timeout)
        wait.until(lambda _: expect in self.text(), message=f"the page never said {expect!r}")
        return self.text()

    def wait_for_plots(self, *, timeout: float = 30) -> None:
        """Wait until the page has drawn a plot."""
        wait = WebDriverWait(self.driver, timeout)
        wait.until(lambda driver: driver.find_elements(By.TAG_NAME, "canvas"), message="the page has drawn no plot")

    def text(self) -> str:
        """The visible text of the page."""
        text: str = self.driver.execute_script("return document.body ? document.body.innerText : ''")
        return text

    def click(self, text: str) -> None:
        """Click the first visible element whose own text is exactly this."""
        self._find(text).click()

    def scroll_to(self, text: str) -> None:
        """Bring the first visible element whose own text is exactly this to the top of what is shown."""
        self.driver.execute_script("arguments[0].scrollIntoView()", self._find(text))

    def _find(self, text: str) -> WebElement:
        for element in self.driver.find_elements(By.XPATH, f"//*[normalize-space(text())={_literal(text)}]"):
            if element.is_displayed():
                return element
        raise RuntimeError(f"nothing on the page says {text!r}")

    def screenshot(self, name: str) -> Path:
        """Save what the window shows as `<name>.png` in the folder of screenshots."""
        self._screenshots.mkdir(parents=True, exist_ok=True)
        path = self._screenshots / f"{name}.png"
        path.write_bytes(self.driver.get_screenshot_as_png())
        return path


def _literal(text: str) -> str:
    """The text as an XPath literal, which knows no escapes."""
    if "'" not in text:
        return f"'{text}'"
    parts = ', "\'", '.join(f"'{part}'" for part in text.split("'"))
    return f"concat({parts})"
