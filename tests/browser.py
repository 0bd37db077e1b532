"""Chromium for the tests of pages: found by name, opened without a network.

Without Chromium, such a test is skipped, but it fails where the environment variable CI is set, as .ci/run does.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--use-fake-device-for-media-stream"]  # root has no sandbox
REMEDY = "install it, on Debian by `apt-get install chromium`"


def find_chromium() -> str:
    """The path of Chromium. Without it, skip the test, or let it fail where CI is set."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"no program is named {', '.join(NAMES)}; {REMEDY}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return str(found)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium without a window, with a camera that shows a test picture."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


class OpenedPage:
    """A page from disk, with what it has requested and what has failed in it.

    Attributes:
        page: Playwright's.
        requests: addresses of requests beside the page itself; data URIs are none.
        errors: messages of errors in scripts, and of the Content-Security-Policy.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self._note(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)

    def _note(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.requests.append(url)

    def violations(self) -> list[str]:
        """What axe-core finds, as one line for each rule and element."""
        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]]


@contextmanager
def open_page(browser: Browser, file: Path, fragment: str = "", **options: Any) -> Iterator[OpenedPage]:
    """Open a file; `options` are those of Playwright's `new_context`, such as `color_scheme`."""
    with open_address(browser, f"{file.as_uri()}{fragment}", offline=True, **options) as opened:
        yield opened


@contextmanager
def open_address(browser: Browser, address: str, **options: Any) -> Iterator[OpenedPage]:
    """Open the page at an address; `options` as for `open_page`."""
    context = browser.new_context(**options)
    opened = OpenedPage(context.new_page())
    opened.page.set_default_timeout(10_000)
    opened.page.goto(address)
    yield opened
    context.close()
