"""A small chat on Django and Channels: rooms, lists of visitors, and a bot. It needs only Python processes."""
