"""Channels 4 on the layer: consumers, test tools, servers, the chat in a browser (``tox -e channels4``)."""
