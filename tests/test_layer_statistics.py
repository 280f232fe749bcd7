"""The statistics extension: every figure, for all channels, one channel and an inbox."""

from __future__ import annotations

import contextlib

import pytest
from helpers.layers import Clock, drain

from asgi_ipc.statistics import REMEMBERED, Rates

KEYS = {
    "messages_count",
    "messages_count_per_second",
    "messages_pending",
    "messages_max_age",
    "channel_full_count",
    "channel_full_count_per_second",
}
NOTHING = dict.fromkeys(KEYS, 0)


def send_ignoring_full(layer, channel, times):
    """Send ``times`` messages and ignore ``ChannelFull``."""
    for _ in range(times):
        with contextlib.suppress(layer.ChannelFull):
            layer.send(channel, {})


@pytest.fixture
def clock(layer):
    """A clock that controls the layer's stores and its rates."""
    clock = Clock(layer)
    layer._rates = Rates(clock.seconds)
    return clock


@pytest.mark.usefixtures("clock")
def test_a_layer_without_messages_reports_zeros(layer):
    assert layer.global_statistics() == NOTHING
    assert layer.channel_statistics("a") == NOTHING
    assert layer.channel_statistics("p!") == NOTHING
    assert layer.channel_statistics("p!a") == NOTHING
    assert layer.channel_statistics("r?a") == NOTHING


def test_messages_are_counted_when_sent_and_pending_until_received(layer, clock):
    for _ in range(4):
        layer.send("a", {})
        clock.forward(2)
    layer.send("b", {})
    layer.receive(["a"])
    clock.forward(1)
    assert layer.channel_statistics("a") == {
        **NOTHING,
        "messages_count": 4,
        "messages_pending": 3,
        "messages_max_age": pytest.approx(7),  # the first was received, the second is two seconds younger
    }
    assert layer.channel_statistics("b") == {
        **NOTHING,
        "messages_count": 1,
        "messages_pending": 1,
        "messages_max_age": pytest.approx(1),
    }
    assert layer.global_statistics() == {
        **NOTHING,
        "messages_count": 5,
        "messages_pending": 4,
        "messages_max_age": pytest.approx(7),
    }


def test_rates_are_computed_between_two_reports(layer, clock):
    layer.channel_statistics("a")
    layer.global_statistics()
    send_ignoring_full(layer, "a", 103)
    layer.send("b", {})
    clock.forward(4)
    report = layer.channel_statistics("a")
    assert report["messages_count_per_second"] == pytest.approx(25)
    assert report["channel_full_count_per_second"] == pytest.approx(0.75)
    report = layer.global_statistics()
    assert report["messages_count_per_second"] == pytest.approx(101 / 4)
    assert report["channel_full_count_per_second"] == pytest.approx(0.75)
    clock.forward(1)
    assert layer.channel_statistics("a")["messages_count_per_second"] == 0
    layer.flush()
    clock.forward(1)
    assert layer.channel_statistics("a")["messages_count_per_second"] == 0
    assert layer.global_statistics()["channel_full_count_per_second"] == 0


@pytest.mark.usefixtures("clock")
def test_two_reports_at_the_same_time_do_not_divide_by_zero(layer):
    layer.global_statistics()
    layer.send("a", {})
    assert layer.global_statistics()["messages_count_per_second"] == 0


def test_rates_are_separate_for_each_layer_object(make_layer, layer, clock):
    other = make_layer()
    Clock(other)
    other.global_statistics()
    layer.send("a", {})
    clock.forward(1)
    assert layer.global_statistics()["messages_count_per_second"] == 0


def test_expired_messages_are_not_pending(layer, clock):
    layer.send("a", {})
    layer.send("p!b", {})
    clock.forward(30)
    layer.send("a", {})
    clock.forward(31)
    report = layer.channel_statistics("a")
    assert (report["messages_count"], report["messages_pending"]) == (2, 1)
    assert report["messages_max_age"] == pytest.approx(31)
    assert layer.channel_statistics("p!")["messages_pending"] == 0
    assert layer.channel_statistics("p!b")["messages_pending"] == 0
    report = layer.global_statistics()
    assert (report["messages_count"], report["messages_pending"]) == (3, 1)


def test_an_inbox_includes_all_its_channels(layer, clock):
    layer.send("p!a", {})
    clock.forward(3)
    send_ignoring_full(layer, "p!b", 100)
    expected = {
        **NOTHING,
        "messages_count": 100,
        "messages_pending": 100,
        "messages_max_age": pytest.approx(3),
        "channel_full_count": 1,
    }
    assert layer.channel_statistics("p!") == expected
    assert layer.global_statistics() == expected
    assert layer.channel_statistics("p!b")["messages_count"] == 99
    assert len(drain(layer, "p!")) == 100
    assert layer.channel_statistics("p!") == {**NOTHING, "messages_count": 100, "channel_full_count": 1}


@pytest.mark.usefixtures("clock")
def test_a_group_send_counts_for_every_member(layer):
    for channel in ("a", "b", "p!c"):
        layer.group_add("g", channel)
    for _ in range(101):
        layer.send_group("g", {})
    report = layer.global_statistics()
    assert (report["messages_count"], report["channel_full_count"]) == (300, 3)
    assert layer.channel_statistics("p!")["channel_full_count"] == 1


def test_sums_remain_after_their_channels_are_swept(layer, clock):
    for number in range(300):
        layer.send(f"c{number}", {})
        layer.receive([f"c{number}"])
    send_ignoring_full(layer, "p!full", 101)
    drain(layer, "p!")
    for _ in range(1500):  # time for the sweep of the idle channels
        clock.forward(0.001)
        layer.receive(["ticking"])
    assert layer.channel_statistics("c5") == NOTHING
    report = layer.global_statistics()
    assert (report["messages_count"], report["channel_full_count"], report["messages_pending"]) == (400, 1, 0)


@pytest.mark.usefixtures("clock")
def test_flush_resets_the_counts(layer):
    layer.send("a", {})
    layer.flush()
    layer.send("a", {})
    assert layer.global_statistics()["messages_count"] == 1
    assert layer.channel_statistics("a")["messages_count"] == 1


@pytest.mark.usefixtures("clock")
def test_the_cache_of_rates_is_bounded(layer):
    for number in range(REMEMBERED + 10):
        layer.channel_statistics(f"c{number}")
    assert len(layer._rates._last) <= REMEMBERED
