"""
asgi_redis 1.4.3 on current libraries: a subclass that overrides two methods.

asgi_redis unpacks with ``msgpack.unpackb(..., encoding="utf8")``. msgpack 1.0 removed this argument;
``raw=False`` is its replacement, and ``strict_map_key=False`` still allows keys that are not text.

asgi_redis expects its local layer to raise the same ``ChannelFull`` as itself, since both inherited it from
asgiref. asgi_ipc 2 has its own ``ChannelFull``, which Channels and Daphne do not catch: they catch the one of
the layer in the settings.
"""

import asgi_redis
import msgpack


class RedisLocalChannelLayer(asgi_redis.RedisLocalChannelLayer):
    """The local layer of asgi_redis: plain channels on asgi_ipc, groups and reply channels on Redis."""

    def send(self, channel, message):
        """Send; raise this layer's ``ChannelFull`` also if the local layer is full."""
        try:
            super().send(channel, message)
        except self.local_layer.ChannelFull as error:
            raise self.ChannelFull(str(error)) from error

    def deserialize(self, message):
        """Return the message that the bytes from Redis encode."""
        if self.crypter:
            message = self.crypter.decrypt(message, self.expiry + 10)
        return msgpack.unpackb(message, raw=False, strict_map_key=False)
