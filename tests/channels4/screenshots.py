"""
Make the screenshots of the chat in ``docs/images``: ``python tests/channels4/screenshots.py``.

Run it when the look of the chat has changed. It needs Pillow and the packages of the chat's tests. No other
chat may use the default prefix, which the page shows.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
DESKTOP = {"width": 1180, "height": 800, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1.5, "mobile": True}
#: Bytes: a larger picture would slow the pages down that show it.
LARGEST = 150_000
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image  # noqa: E402
from selenium import webdriver  # noqa: E402

from asgi_ipc import IPCChannelLayer  # noqa: E402
from channels4.browser import Tab, start_chromium  # noqa: E402
from channels4.chat import Chat, kill  # noqa: E402

PREFIX = "chat-8000"


def main() -> None:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        sys.exit("needs Chromium and its driver: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        browser = start_chromium(chromium, driver, Path(profile))
        chat = Chat(PREFIX, "uvicorn", 3)
        try:
            take_all(browser, chat)
        finally:
            browser.quit()
            chat.end()
            with IPCChannelLayer(PREFIX) as layer:
                layer.unlink()


def take_all(browser: webdriver.Chrome, chat: Chat) -> None:
    """Play a conversation in the lobby and take the screenshots."""
    ada = enter(browser, chat, "Ada")
    grace = enter(browser, chat, "Grace", ada.worker)
    linus = enter(browser, chat, "Linus", ada.worker, grace.worker)
    enter(browser, chat, "Barbara", ada.worker, grace.worker)
    say_and_wait(ada, grace, "Morning! Which process are you on?")
    say_and_wait(grace, ada, "Look at the small numbers: in through mine, out through yours.")
    say_and_wait(grace, ada, "And there really is no broker in between?")
    say_and_wait(ada, grace, "Two files in /dev/shm, and that is all.")
    chat.post("lobby", "The backup is done: 18 GB in 4 minutes", "cron")
    say_and_wait(linus, ada, "/roll 3d6")
    ada.wait_for("the bot answers", lambda: ada.log()[-1]["kind"] == "bot")
    take(ada, "chat.png")
    take(ada, "chat-phone.png", phone=True)
    killed = grace.worker
    kill(killed)
    grace.wait_for("it is connected again", lambda: grace.welcomes > 1 and grace.me())
    say_and_wait(grace, ada, "Somebody killed my worker with kill -9. Here I am again.")
    grace.wait_for(
        "another worker takes its place", lambda: len(grace.processes()) == 4 and killed not in grace.processes()
    )
    take(grace, "chat-killed.png", "dark")


def enter(browser: webdriver.Chrome, chat: Chat, name: str, *not_on: int) -> Tab:
    """Open a tab that is served by none of the processes ``not_on``."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    tab = Tab(browser, chat.url, "lobby", name)
    while tab.worker in not_on:
        tab.reload()
    return tab


def say_and_wait(by: Tab, to: Tab, text: str) -> None:
    """Send a message from one tab and wait until another tab shows it."""
    by.say(text)
    to.wait_for_texts([text])


def take(tab: Tab, name: str, scheme: str = "light", phone: bool = False) -> None:
    """Save a screenshot of a tab, with the screen of a phone if wanted."""
    browser = tab.in_front()
    browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE if phone else DESKTOP)
    if not phone:  # high enough for all messages
        hidden = tab.run("const a = document.getElementById('scroll'); return a.scrollHeight - a.clientHeight")
        size = {**DESKTOP, "height": DESKTOP["height"] + hidden}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    tab.run("document.activeElement.blur(); document.getElementById('scroll').scrollTop = 1e6")
    time.sleep(0.8)  # until the animations have ended
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / name
    browser.save_screenshot(str(path))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    # Not with a palette: that would lose the shadows.
    Image.open(path).convert("RGB").save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        sys.exit(f"{path} has {path.stat().st_size} bytes, more than {LARGEST}")


if __name__ == "__main__":
    main()
