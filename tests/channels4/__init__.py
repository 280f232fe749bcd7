"""Channels 4 on the layer: its consumers, its test tools, its servers, and a browser (``tox -e channels4``)."""
