"""
asgi_redis 1.4.3 on today's libraries: a subclass for the two places where it needs help.

It unpacks with ``msgpack.unpackb(..., encoding="utf8")``. The argument went away with msgpack 1.0, where
``raw=False`` says the same; ``strict_map_key=False`` goes on allowing keys that are no text.

It expects the ``ChannelFull`` of its local layer to be its own, as both inherited it from asgiref. asgi_ipc 2
has one of its own, which Channels and Daphne would not know: they catch the one of the layer that they were
given.
"""

import asgi_redis
import msgpack


class RedisLocalChannelLayer(asgi_redis.RedisLocalChannelLayer):
    """The local layer of asgi_redis: channels of the machine on asgi_ipc, groups and replies on Redis."""

    def send(self, channel, message):
        """Send, and raise one ``ChannelFull`` whatever is full."""
        try:
            super().send(channel, message)
        except self.local_layer.ChannelFull as error:
            raise self.ChannelFull(str(error)) from error

    def deserialize(self, message):
        """Bytes from Redis as a message."""
        if self.crypter:
            message = self.crypter.decrypt(message, self.expiry + 10)
        return msgpack.unpackb(message, raw=False, strict_map_key=False)
