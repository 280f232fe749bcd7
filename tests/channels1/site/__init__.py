"""The test site: settings, pages and WebSocket consumers of a typical Channels 1 project."""
