"""The consumer of each channel; Django serves the pages by default."""

from channels.routing import route, route_class

from . import consumers

channel_routing = [
    route_class(consumers.Room, path=r"^/room/(?P<room>\w+)/$"),
    route_class(consumers.Ordered, path=r"^/ordered/$"),
    route("site.job", consumers.job),
]
