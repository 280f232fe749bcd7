"""A headless Chromium with several tabs of the chat."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

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
    "--disable-dev-shm-usage",  # its shared memory is not what is tested here
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-renderer-backgrounding",  # only one tab is in front, and all of them are looked at
    "--disable-background-timer-throttling",
    "--window-size=1280,800",
]


def start_chromium(chromium: str, driver: str, profile: Path) -> webdriver.Chrome:
    """Chromium, driven by its own driver: nothing is fetched from anywhere."""
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    # Everything that a page asks for is written down, to see that it asks nobody but the site.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class Tab:
    """A visitor in a tab of its own."""

    def __init__(self, browser: webdriver.Chrome, url: str, room: str, name: str) -> None:
        self.browser, self.name = browser, name
        browser.switch_to.new_window("tab")
        self.handle = browser.current_window_handle
        browser.get(url)
        self.in_front().find_element(By.ID, "name").send_keys(name)
        field = browser.find_element(By.ID, "room")
        field.clear()
        field.send_keys(room, Keys.ENTER)
        self.wait_for("there is somebody here", lambda: self.me())

    def in_front(self) -> webdriver.Chrome:
        """Make this the tab that is looked at."""
        if self.browser.current_window_handle != self.handle:
            self.browser.switch_to.window(self.handle)
        return self.browser

    def run(self, script: str, *args: Any) -> Any:
        """Run JavaScript in the tab; what it returns."""
        return self.in_front().execute_script(script, *args)

    def wait_for(self, what: str, found: Callable[[], Any]) -> Any:
        """Wait until something is true of the page; what was found."""
        deadline = time.monotonic() + LIMIT
        while True:
            value = found()
            if value:
                return value
            assert time.monotonic() < deadline, f"{self.name}'s tab never shows that {what}: {self.text()}"
            time.sleep(0.02)

    def text(self) -> str:
        """All that the page shows."""
        return str(self.run("return document.body.innerText"))

    @property
    def worker(self) -> int:
        """The process that serves this tab."""
        return int(self.run("return document.getElementById('main').dataset.pid"))

    @property
    def welcomes(self) -> int:
        """How many times a process has welcomed this tab: more than once after a loss."""
        return int(self.run("return document.getElementById('main').dataset.welcomes"))

    def say(self, *texts: str) -> None:
        """Type and send one message after the other."""
        field = self.in_front().find_element(By.ID, "text")
        for text in texts:
            field.send_keys(text, Keys.ENTER)

    def log(self) -> List[Dict[str, str]]:
        """What was said, in the order of the page: text, name, and the processes it came through."""
        found: List[Dict[str, str]] = self.run(
            "return [...document.querySelectorAll('#log li:not(.note)')].map(item => ({"
            "text: item.querySelector('.bubble').textContent, name: item.querySelector('b').textContent,"
            "said_by: item.dataset.from, delivered_by: item.dataset.by, kind: item.dataset.kind}))"
        )
        return found

    def texts(self) -> List[str]:
        """The same, only what was said."""
        return [said["text"] for said in self.log()]

    def wait_for_texts(self, wanted: Sequence[str]) -> List[str]:
        """Wait until the page shows all of these; what it then shows."""
        self.wait_for(f"{wanted} were said", lambda: set(wanted) <= set(self.texts()))
        return self.texts()

    def here(self) -> List[Dict[str, str]]:
        """Who is here, as the page shows it: name, visitor, pid."""
        found: List[Dict[str, str]] = self.run(
            "return [...document.querySelectorAll('#here li')].map(item => ({...item.dataset}))"
        )
        return found

    def me(self) -> List[str]:
        """The ids under which the page shows its own visitor: one, or none before it is in."""
        found: List[str] = self.run(
            "return [...document.querySelectorAll('#here li')].filter(item => item.querySelector('em'))"
            ".map(item => item.dataset.visitor)"
        )
        return found

    def reload(self) -> None:
        """Come in again, perhaps to another process."""
        self.in_front().refresh()
        self.wait_for("there is somebody here", lambda: self.me())

    def close(self) -> None:
        """Leave."""
        self.in_front().close()
        self.browser.switch_to.window(self.browser.window_handles[0])
