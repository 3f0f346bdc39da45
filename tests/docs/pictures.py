"""Takes the pictures of the docs: the sandbox in Dagster's UI, as `make docs-pictures`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from luma_pipeline.sandbox.demo import run_pipeline
from luma_pipeline.sandbox.dev import DagsterDev
from luma_pipeline.sandbox.stack import Sandbox
from tests.docs.pages import DOCS
from tests.e2e.browser import Browser


def main() -> None:
    """Start a sandbox, run its days, and keep what the browser shows."""
    with tempfile.TemporaryDirectory() as folder, Sandbox(Path(folder)) as sandbox:
        run_pipeline(sandbox, tell=print)
        with DagsterDev(sandbox, port=0) as dagster, Browser(DOCS, width=1400, height=660) as browser:
            browser.open(f"{dagster.url}/asset-groups", expect="luma_videos")
            _hide_the_menu(browser)
            WebDriverWait(browser.driver, 30).until(lambda _: "100% filled" in browser.text())
            browser.screenshot("lineage")
            day = sandbox.source.last_day.isoformat()
            browser.open(f"{dagster.url}/assets/luma_videos?view=partitions&partition={day}", expect="Metadata")
            browser.screenshot("day")


def _hide_the_menu(browser: Browser) -> None:
    for element in browser.driver.find_elements(By.XPATH, "//*[normalize-space(text())='Hide navigation']"):
        if element.is_displayed():
            element.click()
            return


if __name__ == "__main__":
    main()
