"""The command that the page shows: it sends a message from a shell, in any directory."""

import shlex
import sys
from pathlib import Path

#: The prefix that ``post.py`` uses by itself.
DEFAULT_PREFIX = "chat-8000"
_POST = Path(__file__).resolve().parent.parent / "post.py"


def post_command(prefix: str, room: str, text: str = "Hello from a shell") -> list[str]:
    """Return the words of the command, quoted for the shell. It uses the interpreter that runs the site."""
    options = [] if prefix == DEFAULT_PREFIX else ["--prefix", prefix]
    return [shlex.quote(word) for word in (sys.executable, str(_POST), *options, room, text)]
