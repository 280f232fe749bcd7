"""A WSGI application with a layer that is made, and used, when the module is imported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from asgi_ipc import IPCChannelLayer

from .traffic import OPTIONS, play

layer = IPCChannelLayer(os.environ["GREENLETS_PREFIX"], **OPTIONS)
layer.send("import", {"pid": os.getpid()})
layer.receive(["import"])
LOADED_BY = os.getpid()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Play, with the name and the seconds of the query, and answer with the tally."""
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    tally = play(layer, query["name"], float(query["seconds"]), pauses=True)
    body = json.dumps({"tally": tally, "loaded_by": LOADED_BY, "pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
