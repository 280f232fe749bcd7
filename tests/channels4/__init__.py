"""Channels 4 on the layer: consumers, test tools, servers, and the chat in a browser (``tox -e channels4``)."""
