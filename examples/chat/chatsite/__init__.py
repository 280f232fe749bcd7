"""A small chat on Django and Channels, with rooms, a list of who is here, and a bot."""
