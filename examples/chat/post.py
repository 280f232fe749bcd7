"""
Send a message to a room of the chat from a shell: ``python examples/chat/post.py lobby "The backup is done"``.

The script could be a cron job: it needs no Django, no event loop and no connection to the site.
"""

import argparse
import os

from asgi_ipc import IPCChannelLayer


def main() -> None:
    parser = argparse.ArgumentParser(description="Send a message to a room of the chat.")
    parser.add_argument("room", help="name of the room")
    parser.add_argument("text", help="text of the message")
    parser.add_argument("--name", default="Script", help="name of the sender (default: %(default)s)")
    parser.add_argument(
        "--prefix", default="chat-8000", help="prefix of the chat's channel layer (default: %(default)s)"
    )
    given = parser.parse_args()
    said = {"type": "chat.said", "kind": "script", "name": given.name, "text": given.text, "pid": os.getpid()}
    with IPCChannelLayer(prefix=given.prefix) as layer:
        layer.send_group(f"chat.{given.room}", said)


if __name__ == "__main__":
    main()
