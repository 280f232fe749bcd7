"""The site: settings, pages and WebSocket consumers as projects of Channels 1 have them."""
