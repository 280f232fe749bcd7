"""
The dice bot: a consumer of a plain channel, which ``manage.py runworker dice`` runs in a separate process.

Tasks wait in the channel while the bot is not running. It answers in the room, as any other process could.
"""

import os
import random
import re
from typing import Any

from channels.consumer import AsyncConsumer

from .rooms import group_of

_DICE = re.compile(r"([1-9][0-9]?)?[dw]([1-9][0-9]{0,2})", re.ASCII | re.IGNORECASE)


def roll(dice: str) -> str:
    """Return the bot's answer to ``2d6``, or to text that does not have this form."""
    match = _DICE.fullmatch(dice.strip() or "1d6")
    if match is None:
        return "dice that the bot does not know. Send /roll 2d6 for two dice with six sides, or up to /roll 99d999."
    count, sides = int(match[1] or 1), int(match[2])
    rolled = [random.randint(1, sides) for _ in range(count)]
    if count == 1:
        return f"d{sides} = {rolled[0]}"
    shown = " + ".join(map(str, rolled[:12])) + (" + …" if count > 12 else "")
    return f"{count}d{sides}: {shown} = {sum(rolled)}"


class DiceBot(AsyncConsumer):
    """Rolls dice for visitors."""

    async def dice_roll(self, task: dict[str, Any]) -> None:
        """Roll, and send the result to the room."""
        text = f"{task['name']} rolls {roll(task['dice'])}"
        said = {"type": "chat.said", "kind": "bot", "name": "Dice", "text": text, "pid": os.getpid()}
        await self.channel_layer.group_send(group_of(task["room"]), said)
