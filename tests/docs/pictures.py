"""Takes the pictures of the docs, the sandbox in Dagster's UI and its gallery: `make docs-pictures`."""

from __future__ import annotations

import base64
import os
import tempfile
import time
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from luma_pipeline.sandbox.demo import run_pipeline
from luma_pipeline.sandbox.dev import DagsterDev
from luma_pipeline.sandbox.stack import BUCKET, PREFIX, Sandbox
from tests.docs.pages import DOCS
from tests.e2e.browser import Browser

_SETTINGS = {"LUMA_GALLERY_ENABLED": "true", "LUMA_ARTIFACTS": "video,thumbnail"}


def main() -> None:
    """Start a sandbox, run its days, and keep what the browser shows."""
    os.environ.update(_SETTINGS)
    with tempfile.TemporaryDirectory() as folder, Sandbox(Path(folder) / "sandbox") as sandbox:
        run_pipeline(sandbox, tell=print)
        day = sandbox.source.first_day.isoformat()
        copy = Path(folder) / "bucket"
        _copy_bucket(sandbox, copy)
        with Browser(DOCS, width=1200, height=800) as browser:
            browser.open(f"file://{copy}/{PREFIX}/_gallery/date={day}/index.html", expect="tasks")
            browser.screenshot("gallery")
        with DagsterDev(sandbox, port=0) as dagster:
            with Browser(DOCS, width=2000, height=640) as browser:
                browser.open(f"{dagster.url}/asset-groups", expect="luma_videos")
                _click(browser, "Hide navigation")
                browser.driver.refresh()
                wait = WebDriverWait(browser.driver, 120)
                wait.until(lambda _: browser.text().count("100% filled") >= len(_ASSETS))
                _screenshot_of(browser, "lineage", x=440, y=190, width=1500, height=185)
            with Browser(DOCS, width=1400, height=900) as browser:
                address = f"{dagster.url}/assets/luma_videos?view=partitions&partition={day}"
                browser.open(address, expect="preview", timeout=120)
                browser.scroll_to("preview")
                browser.click("[Show Markdown]")
                time.sleep(_THUMBNAIL_SECONDS)
                _screenshot_of(browser, "day", x=140, y=40, width=1120, height=320)
                address = f"{dagster.url}/assets/luma_generations?view=overview"
                browser.open(address, expect="raw_response", timeout=120)
                browser.click("Plots")
                browser.wait_for_plots(timeout=120)
                browser.scroll_to("Metadata")
                _screenshot_of(browser, "plots", x=250, y=105, width=790, height=620)


_THUMBNAIL_SECONDS = 3.0
_ASSETS = ("luma_tasks", "luma_generations", "luma_videos")


def _copy_bucket(sandbox: Sandbox, folder: Path) -> None:
    client = sandbox.object_store.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            target = folder / item["Key"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read())


def _screenshot_of(browser: Browser, name: str, **area: float) -> None:
    """Keep a part of what the window shows; the area is in CSS pixels."""
    shown = browser.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": {**area, "scale": 1}})
    (DOCS / f"{name}.png").write_bytes(base64.b64decode(shown["data"]))


def _click(browser: Browser, text: str) -> None:
    for element in browser.driver.find_elements(By.XPATH, f"//*[normalize-space(text())='{text}']"):
        if element.is_displayed():
            element.click()
            return


if __name__ == "__main__":
    main()
