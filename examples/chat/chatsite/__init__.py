"""A small chat on Django and Channels: rooms, who is here, and a bot, with nothing to run but Python processes."""
