"""What a recovery of a group segment keeps, and what it cuts off."""

from __future__ import annotations

import pytest
from helpers.segments import raise_in_critical_sections

from asgi_ipc import IPCChannelLayer
from asgi_ipc.shm.layout import WORD
from asgi_ipc.stores.groups.members import MEMBER_NAME


@pytest.mark.parametrize("damaged", ["abc!", "abc?", "a!c!", "!bcd", "ab/d", "ab\xe9"])
def test_a_recovery_cuts_off_a_member_that_nothing_can_be_sent_to(layer: IPCChannelLayer, damaged: str) -> None:
    for channel in ("first", "abcd", "last"):
        layer.group_add("g", channel)
    attachment = layer.group_store.sections.attachment
    assert attachment is not None
    members = layer.group_store.sections.parts.members
    second = list(members.walk(members.find_group("g")))[1]
    name = damaged.encode()
    start = (second + MEMBER_NAME) * WORD
    attachment.segment.data[start : start + len(name)] = name
    raise_in_critical_sections(layer)
    assert layer.group_channels("g") == ["first"]
