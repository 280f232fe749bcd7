"""A headless Chromium, and tabs of the chat in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers.processes import LIMIT
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # Chromium's own shared memory is not under test
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-renderer-backgrounding",  # the tests read all tabs, also those in the background
    "--disable-background-timer-throttling",
    "--window-size=1280,800",
]


def start_chromium(chromium: str, driver: str, profile: Path) -> webdriver.Chrome:
    """Start Chromium with the given driver, so that selenium downloads nothing."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    # Record every request, to check that the page requests nothing from other hosts.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class Tab:
    """A visitor of the chat in its own tab."""

    def __init__(self, browser: webdriver.Chrome, url: str, room: str, name: str) -> None:
        self.browser, self.name = browser, name
        browser.switch_to.new_window("tab")
        self.handle = browser.current_window_handle
        browser.get(url)
        self.in_front().find_element(By.ID, "name").send_keys(name)
        field = browser.find_element(By.ID, "room")
        field.clear()
        field.send_keys(room, Keys.ENTER)
        self.wait_for("the visitor is here", lambda: self.me())

    def in_front(self) -> webdriver.Chrome:
        """Bring this tab to the front and return the browser."""
        if self.browser.current_window_handle != self.handle:
            self.browser.switch_to.window(self.handle)
        return self.browser

    def run(self, script: str, *args: Any) -> Any:
        """Run JavaScript in the tab and return its result."""
        return self.in_front().execute_script(script, *args)

    def wait_for(self, state: str, found: Callable[[], Any]) -> Any:
        """Wait until ``found()`` is true and return its result; ``state`` is for the error message."""
        deadline = time.monotonic() + LIMIT
        while True:
            value = found()
            if value:
                return value
            assert time.monotonic() < deadline, f"{self.name}'s tab never shows that {state}: {self.text()}"
            time.sleep(0.02)

    def text(self) -> str:
        """Return the whole text of the page."""
        return str(self.run("return document.body.innerText"))

    @property
    def worker(self) -> int:
        """The id of the process that serves this tab."""
        return int(self.run("return document.getElementById('main').dataset.pid"))

    @property
    def welcomes(self) -> int:
        """The number of connections of this tab; more than one if a connection was lost."""
        return int(self.run("return document.getElementById('main').dataset.welcomes"))

    def say(self, *texts: str) -> None:
        """Type and send messages."""
        field = self.in_front().find_element(By.ID, "text")
        for text in texts:
            field.send_keys(text, Keys.ENTER)

    def log(self) -> list[dict[str, str]]:
        """Return the messages in page order: text, name, kind, and the processes they came through."""
        found: list[dict[str, str]] = self.run(
            "return [...document.querySelectorAll('#log li:not(.note)')].map(item => ({"
            "text: item.querySelector('.bubble').textContent, name: item.querySelector('b').textContent,"
            "said_by: item.dataset.from, delivered_by: item.dataset.by, kind: item.dataset.kind}))"
        )
        return found

    def texts(self) -> list[str]:
        """Return the texts of the messages in the order of the page."""
        return [line["text"] for line in self.log()]

    def wait_for_texts(self, wanted: Sequence[str]) -> list[str]:
        """Wait until the page shows all of these texts; return all texts that it shows."""
        self.wait_for(f"{wanted} arrived", lambda: set(wanted) <= set(self.texts()))
        return self.texts()

    def here(self) -> list[dict[str, str]]:
        """Return the visitors that the page lists: name, visitor, pid."""
        found: list[dict[str, str]] = self.run(
            "return [...document.querySelectorAll('#here li')].map(item => ({...item.dataset}))"
        )
        return found

    def me(self) -> list[str]:
        """Return the ids that the page marks as its own visitor: one, or none before it has entered."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll('#here li')].filter(item => item.querySelector('em'))"
            ".map(item => item.dataset.visitor)"
        )
        return found

    def processes(self) -> dict[int, str]:
        """Return the processes that the page lists, by id: ``worker``, ``idle worker`` or ``bot``."""
        found: list[dict[str, str]] = self.run(
            "return [...document.querySelectorAll('#here .process')].map(block => ({...block.dataset,"
            "says: block.innerText}))"
        )
        for each in found:
            assert ("idle" in each["says"]) == (each["idle"] == "true"), each
        return {int(each["pid"]): ("idle " if each["idle"] == "true" else "") + each["kind"] for each in found}

    def command(self) -> str:
        """Return the command that the empty room shows."""
        return str(self.run("return document.getElementById('command').textContent"))

    def reload(self) -> None:
        """Reload the page, which may connect it to another process."""
        self.in_front().refresh()
        self.wait_for("the visitor is here", lambda: self.me())

    def close(self) -> None:
        """Close the tab."""
        self.in_front().close()
        self.browser.switch_to.window(self.browser.window_handles[0])
