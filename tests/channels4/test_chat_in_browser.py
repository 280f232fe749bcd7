"""The chat of ``examples/chat`` in a real browser, behind real servers whose processes are killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from asgi_ipc import IPCChannelLayer

pytest.importorskip("channels.layers", reason="needs Channels 4: tox -e channels4")
pytest.importorskip("uvicorn", reason="needs uvicorn: tox -e channels4")
pytest.importorskip("selenium", reason="needs selenium: tox -e channels4")

from .browser import Tab
from .chat import Chat, descendants, kill, run_in_shell

only_uvicorn = pytest.mark.parametrize("chat", ["uvicorn"], indirect=True)

#: JavaScript: send ``n0``, ``n1``, ..., each after the previous one has come back, and record the times.
COUNT = """
const [limit] = arguments, log = document.getElementById('log'), text = document.getElementById('text');
const say = n => { text.value = `n${n}`; text.form.requestSubmit(); };
window.times = [];
new MutationObserver(changes => {
  for (const item of changes.flatMap(change => [...change.addedNodes])) {
    if (item.querySelector('.bubble')?.textContent !== `n${times.length}`) continue;
    times.push(performance.now());
    if (times.length < limit) setTimeout(say, 5, times.length);
  }
}).observe(log, {childList: true});
say(0);
"""
#: JavaScript: record every state of the list of visitors.
WATCH = """
window.seen = [];
const look = () => seen.push([...document.querySelectorAll('#here li')].map(item => item.dataset.visitor));
look();
new MutationObserver(look).observe(document.getElementById('here'), {childList: true, subtree: true});
"""


@pytest.fixture
def enter(browser: Any, chat: Chat, room: str) -> Iterator[Callable[..., Tab]]:
    """Return a function that enters the room in a new tab, on another worker than the tabs ``apart_from``."""
    tabs: list[Tab] = []

    def enter(name: str, apart_from: Any = ()) -> Tab:
        tab = Tab(browser, chat.url, room, name)
        tabs.append(tab)
        for _ in range(200):
            if tab.worker not in [other.worker for other in apart_from]:
                return tab
            tab.reload()
        raise AssertionError(f"every connection goes to the worker of {apart_from[0].name}")

    yield enter
    for tab in tabs:
        tab.close()


def test_tabs_on_different_workers_show_the_same_messages_in_the_same_order(enter: Callable[..., Tab]) -> None:
    ada = enter("Ada")
    grace = enter("Grace", apart_from=[ada])
    sent: list[str] = []
    for turn in range(5):
        for tab in (ada, grace):
            texts = [f"{tab.name} {turn}.{part}" for part in range(3)]
            tab.say(*texts)
            sent += texts

    assert ada.wait_for_texts(sent) == grace.wait_for_texts(sent)
    for tab in (ada, grace):
        assert [text for text in ada.texts() if text.startswith(tab.name)] == [
            text for text in sent if text.startswith(tab.name)
        ]
        assert {line["delivered_by"] for line in tab.log()} == {str(tab.worker)}
        assert {line["said_by"] for line in ada.log() if line["name"] == tab.name} == {str(tab.worker)}
    assert ada.worker != grace.worker
    assert sorted(each["name"] for each in ada.here()) == ["Ada", "Grace"]


def test_a_killed_worker_disconnects_only_its_own_visitors(
    enter: Callable[..., Tab], chat: Chat, room: str
) -> None:
    count = 150
    ada = enter("Ada")
    grace = enter("Grace", apart_from=[ada])
    victim, survivor = ada.worker, grace.worker
    (old_self,) = ada.me()
    grace.wait_for("Ada is here", lambda: old_self in [each["visitor"] for each in grace.here()])

    def in_groups(visitor: str) -> list[str]:
        """Return the visitor's memberships in the room's groups, as a new process sees them."""
        with IPCChannelLayer(chat.prefix) as layer:
            members = layer.group_channels(f"chat.{room}") + layer.group_channels(f"chat.{room}.here")
        return [member for member in members if visitor in member]

    assert len(in_groups(old_self)) == 2
    grace.run(WATCH)
    grace.run(COUNT, count)
    grace.wait_for("messages arrive", lambda: len(grace.texts()) > count // 5)

    kill(victim)
    assert in_groups(old_self) == []

    # The chat of the other tab continues: no message lost or duplicated, and no reconnection.
    counted = [f"n{number}" for number in range(count)]
    assert [text for text in grace.wait_for_texts(counted) if text in set(counted)] == counted
    assert (grace.worker, grace.welcomes) == (survivor, 1)
    times = grace.run("return times")
    longest = max(later - earlier for earlier, later in zip(times, times[1:]))
    assert longest < 10_000, f"the chat of a live worker hung for {longest} ms"

    # The tab of the dead worker reconnects by itself.
    ada.wait_for("it is connected again", lambda: ada.welcomes == 2 and ada.me())
    assert ada.worker != victim
    (new_self,) = ada.me()
    assert new_self != old_self
    grace.wait_for("Ada is here again", lambda: new_self in [each["visitor"] for each in grace.here()])
    assert old_self not in [each["visitor"] for each in grace.here()]
    seen = grace.run("return seen")
    assert [old_self in each for each in seen] == sorted((old_self in each for each in seen), reverse=True)
    ada.say("I am back")
    assert grace.wait_for_texts(["I am back"])[-1] == "I am back"
    assert ada.wait_for_texts(["I am back"])[-1] == "I am back"


def test_messages_typed_without_connection_are_sent_after_reconnecting(enter: Callable[..., Tab]) -> None:
    ada = enter("Ada")
    grace = enter("Grace", apart_from=[ada])
    kill(ada.worker)
    ada.say("sent without connection", "and this too")
    for tab in (ada, grace):
        tab.wait_for_texts(["sent without connection", "and this too"])
    assert grace.texts() == ["sent without connection", "and this too"]
    assert ada.run("return document.querySelectorAll('#pending li').length") == 0


def test_a_script_sends_a_message_to_the_room(enter: Callable[..., Tab], chat: Chat, room: str) -> None:
    ada = enter("Ada")
    grace = enter("Grace", apart_from=[ada])
    pid = chat.post(room, "The backup is done", name="cron")
    for tab in (ada, grace):
        tab.wait_for_texts(["The backup is done"])
        assert tab.log() == [
            {
                "text": "The backup is done",
                "name": "cron",
                "said_by": str(pid),
                "delivered_by": str(tab.worker),
                "kind": "script",
            }
        ]


def test_the_command_that_an_empty_room_shows_sends_a_message_to_it(enter: Callable[..., Tab]) -> None:
    ada = enter("Ada")
    command = ada.command()
    run_in_shell(command, "/")
    assert ada.wait_for_texts(["Hello from a shell"]) == ["Hello from a shell"]
    assert [(line["name"], line["kind"]) for line in ada.log()] == [("Script", "script")]
    assert not ada.run("return document.getElementById('copy').checkVisibility()")


@only_uvicorn
def test_commands_are_copied_to_the_clipboard(enter: Callable[..., Tab], browser: Any) -> None:
    ada = enter("Ada")
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", permissions)

    def copied(button: str) -> str:
        browser.find_element("css selector", button).click()
        ada.wait_for("it is copied", lambda: browser.find_element("css selector", button).text == "copied")
        return str(browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])"))

    assert copied("#copy") == ada.command()
    ada.wait_for("all is listed", lambda: sorted(ada.processes().values()) == ALL_LISTED)
    for pid in ada.processes():
        assert copied(f"[data-pid='{pid}'] .copy") == f"kill -9 {pid}"


@only_uvicorn
def test_a_button_in_the_list_keeps_the_focus_when_the_list_changes(enter: Callable[..., Tab]) -> None:
    ada = enter("Ada")
    ada.run(f"document.querySelector(\"[data-pid='{ada.worker}'] .copy\").focus()")
    grace = enter("Grace", apart_from=[ada])
    while grace.worker != ada.worker:
        grace.reload()
    both = [("Ada", str(ada.worker)), ("Grace", str(ada.worker))]

    def listed() -> list[tuple[str, str]]:
        return sorted((each["name"], each["pid"]) for each in ada.here())

    ada.wait_for("both are on one worker", lambda: listed() == both)
    assert ada.run("return document.activeElement.textContent") == f"kill -9 {ada.worker}"


#: The processes of a site in which one visitor is in the room.
ALL_LISTED = ["bot", "idle worker", "idle worker", "worker"]


def test_all_processes_are_listed_and_the_killed_ones_replaced(enter: Callable[..., Tab], chat: Chat) -> None:
    ada = enter("Ada")

    def listed_without(pid: int) -> dict[int, str]:
        """Wait until all processes are listed, without ``pid``; return them."""

        def complete() -> dict[int, str] | None:
            found = ada.processes()
            return found if sorted(found.values()) == ALL_LISTED and pid not in found else None

        found: dict[int, str] = ada.wait_for(f"there are all processes but {pid}", complete)
        return found

    before = listed_without(0)
    assert before[ada.worker] == "worker"
    assert set(before) <= set(descendants(chat.process.pid))

    # The replacement of an idle worker is listed although no visitor has come to it.
    idle = next(pid for pid, kind in before.items() if kind == "idle worker")
    kill(idle)
    ada.wait_for("the killed process is gone", lambda: idle not in ada.processes())
    after = listed_without(idle)
    assert len(set(after) - set(before)) == 1
    assert ada.welcomes == 1

    (bot,) = (pid for pid, kind in after.items() if kind == "bot")
    kill(bot)
    assert len(set(listed_without(bot)) - set(after)) == 1

    own = ada.worker
    kill(own)
    after = listed_without(own)
    assert after[ada.worker] == "worker"
    assert set(after) <= set(descendants(chat.process.pid))


def bots(tab: Tab) -> list[int]:
    """Return the process ids of the bots that have answered, in the order of their answers."""
    return [int(line["said_by"]) for line in tab.log() if line["kind"] == "bot"]


def test_the_bot_answers_and_is_replaced_when_it_is_killed(enter: Callable[..., Tab]) -> None:
    ada = enter("Ada")
    grace = enter("Grace", apart_from=[ada])
    ada.say("/roll 2d6")
    for tab in (ada, grace):
        tab.wait_for("the bot has answered", lambda tab=tab: len(bots(tab)) == 1)
        assert "Ada rolls 2d6: " in tab.texts()[-1]
    (first,) = bots(ada)
    assert first not in (ada.worker, grace.worker)

    kill(first)
    grace.say("/roll 4d20")  # stays in the channel until a bot runs again
    for tab in (ada, grace):
        tab.wait_for("another bot has answered", lambda tab=tab: len(bots(tab)) == 2)
        assert "Grace rolls 4d20: " in tab.texts()[-1]
    assert bots(ada)[1] != first


def test_visitors_who_leave_disappear_and_rooms_are_separate(
    enter: Callable[..., Tab], browser: Any, chat: Chat, room: str
) -> None:
    ada = enter("Ada")
    grace = enter("Grace", apart_from=[ada])
    elsewhere = Tab(browser, chat.url, f"{room}-next", "Linus")
    ada.wait_for("both are here", lambda: [each["name"] for each in ada.here()] and len(ada.here()) == 2)
    ada.say("only in here")
    grace.wait_for_texts(["only in here"])
    assert elsewhere.texts() == []
    assert [each["name"] for each in elsewhere.here()] == ["Linus"]
    grace.run("location.href = '/'")
    ada.wait_for("Grace has left", lambda: [each["name"] for each in ada.here()] == ["Ada"])
    elsewhere.close()


@only_uvicorn
def test_visitors_input_is_shown_as_text(enter: Callable[..., Tab]) -> None:
    ada = enter("<b>A</b>&da")
    grace = enter("Grace")
    hostile = "<img src=x onerror=\"document.title='broken into'\"> <script>1</script>"
    ada.say(hostile)
    for tab in (ada, grace):
        assert tab.wait_for_texts([hostile]) == [hostile]
        assert tab.log()[0]["name"] == "<b>A</b>&da"
        assert tab.run("return document.title") != "broken into"
        assert tab.run("return document.querySelectorAll('.bubble *').length") == 0


@only_uvicorn
def test_the_page_requests_only_the_site_and_logs_no_error(
    enter: Callable[..., Tab], browser: Any, chat: Chat
) -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    ada = enter("Ada")
    ada.say("hello")
    ada.wait_for_texts(["hello"])
    requested_hosts = set()
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            requested_hosts.add(urlsplit(event["params"]["request"]["url"]).netloc)
        if event["method"] == "Network.webSocketCreated":
            requested_hosts.add(urlsplit(event["params"]["url"]).netloc)
    assert requested_hosts == {urlsplit(chat.url).netloc}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
