"""
The codec: a message as bytes and back, in msgpack, checked in both directions.

A message is a dict with ``str`` keys. Its values, and those of the dicts and lists in it, are ``bytes``,
``str``, ``int`` of 64 bits, ``float``, ``bool``, None, lists (tuples become lists) and dicts with ``str``
keys, nested at most ``MAX_DEPTH`` deep. A subclass of these is encoded as its base: Django's SafeString
becomes ``str``, an IntEnum ``int``, an OrderedDict ``dict``. ``bytes`` and ``str`` stay distinct.

``decode`` turns what ``encode`` returns into an equal message. ``encode`` refuses what it cannot guarantee
this for. ``encode`` accepts everything that ``decode`` returns.

Both are on the hot path. A message of exact builtin types is only checked, item by item, before msgpack
encodes it. If that check finds anything else, a slower pass runs, which tracks the path of each value and
makes plain copies of subclasses.
"""

from __future__ import annotations

__all__ = ["MAX_DEPTH", "decode", "encode"]

import json
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from msgpack import (  # type: ignore[import-untyped, unused-ignore]
    ExtType,
    Packer,
    Unpacker,
    UnpackException,
    unpackb,
)

from .exceptions import MessageTooLarge, a_type

#: How deep containers may be nested, counting the message itself. msgpack 1.0 in pure Python packs 255 nested
#: dicts, and takes two Python frames for each.
MAX_DEPTH = 100

_SCALARS = frozenset((str, bytes, int, float, bool, type(None)))
#: The most bytes in one str or bytes value: msgpack has 32 bits for the length.
_MAX_ITEM = 2**32 - 1
_LOWEST, _HIGHEST = -(2**63), 2**64 - 1

_ALLOWED = (
    "a message holds bytes, str, int (64 bits), float, bool, None, "
    "and lists, tuples and dicts (with str keys) of these"
)
#: The most steps of a path that an error shows: of a longer path it shows the first and the last six.
_PATH_STEPS = 12

#: A packer is not reentrant: msgpack in pure Python mixes two messages when a signal handler, a finaliser or
#: another thread enters it again. (In C it runs no Python code while it packs exact builtins, and is given
#: nothing else here.) So each call takes a packer from this list, or makes one, and puts it back at the end.
#: A packer that failed is dropped, with what is left in its buffer. list.pop and list.append are atomic, and
#: as fast as threading.local, which would not help against signal handlers.
_spare_packers: list[Any] = []
#: Bytes: a packer that encoded a larger message is dropped, because its buffer never shrinks.
_KEPT_SIZE = 4 * 1024 * 1024


def encode(message: dict[str, Any]) -> bytes:
    """
    Return the bytes of ``message``.

    The message is not changed, and later changes to it have no effect. No other thread may change it during
    the call.

    Raises TypeError, with the path and the type, if it contains a value that is not allowed; MessageTooLarge
    if a single value is longer than the 4 GiB that msgpack can express.
    """
    if type(message) is not dict or not _is_plain(message, MAX_DEPTH):
        message = _plain_message(message)
    try:
        packer = _spare_packers.pop()
    except IndexError:
        packer = Packer()
    try:
        data: bytes = packer.pack(message)
    except (TypeError, ValueError, OverflowError):
        data = b""  # the quick check accepts every int and str, but msgpack does not
    if not data:
        return bytes(Packer().pack(_plain_message(message)))  # raises an error that says what is wrong and where
    if len(data) <= _KEPT_SIZE:
        _spare_packers.append(packer)
    return data


def decode(data: bytes) -> dict[str, Any]:
    """
    Return the message that ``data`` contains.

    Raises ValueError, and nothing else, if ``data`` is not exactly one message: truncated, followed by more
    bytes, not msgpack, not UTF-8, or with values that are not allowed in a message.
    """
    try:
        message = unpackb(data)
    except (ValueError, UnpackException) as error:
        raise _no_message(data, str(error) or type(error).__name__) from error
    except MemoryError:
        if _is_whole(data):
            raise
        raise _no_message(data, "a length in it points past its end") from None
    try:
        plain = type(message) is dict and _is_plain(message, MAX_DEPTH)
    except RecursionError:  # the caller's stack is nearly used up: not a fault of the message
        plain = False
    if not plain:
        fault = _fault(message)
        if fault:
            raise _no_message(data, fault)
    return message  # type: ignore[no-any-return, unused-ignore]


def _is_plain(container: Any, levels: int) -> bool:
    """True if ``container`` is at most ``levels`` deep and consists of exact builtins, with str keys."""
    kind = type(container)
    if kind is dict:
        for key, item in container.items():
            if type(key) is not str or (
                type(item) not in _SCALARS and not (levels > 1 and _is_plain(item, levels - 1))
            ):
                return False
        return True
    if kind is not list and kind is not tuple:
        return False
    for item in container:
        if type(item) not in _SCALARS and not (levels > 1 and _is_plain(item, levels - 1)):
            return False
    return True


# -- The slow pass: copies allowed values, and reports the path of others --


def _plain_message(message: Any) -> dict[str, Any]:
    """Return a copy of ``message`` that consists of exact builtins. Raises what ``encode`` raises."""
    if not issubclass(type(message), dict):
        raise TypeError(f"message is {a_type(message)}; a message must be a dict with str keys")
    return _plain_dict(message, (), {})


def _plain(value: Any, path: tuple[object, ...], parents: dict[int, tuple[object, ...]]) -> Any:
    """
    Return a copy of ``value``, which is at ``path``, that consists of exact builtins.

    ``parents`` maps the id of each container around it to its path. The base is found by the type, not by the
    value: a value may claim another class (``__class__`` of a lazy proxy) or override how it is read
    (``__str__``, ``items``), and msgpack reads the underlying value too.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return _plain_str(value, path)
    if issubclass(kind, bytes):
        _check_length(bytes.__len__(value))
        return bytes.__getitem__(value, slice(None))
    if issubclass(kind, int):
        return _plain_int(value, path)
    if issubclass(kind, float):
        return float.__float__(value)
    if issubclass(kind, dict):
        return _plain_dict(value, path, parents)
    if issubclass(kind, (list, tuple)) and not issubclass(kind, ExtType):  # which is a namedtuple
        inside = _entered(value, path, parents)
        items: Iterable[Any] = list.__iter__(value) if issubclass(kind, list) else tuple.__iter__(value)
        return [_plain(item, (*path, index), inside) for index, item in enumerate(items)]
    raise TypeError(f"{_at(path)} is {a_type(value)}; {_ALLOWED}")


def _plain_dict(
    value: dict[Any, Any], path: tuple[object, ...], parents: dict[int, tuple[object, ...]]
) -> dict[str, Any]:
    inside = _entered(value, path, parents)
    # The order of an OrderedDict that was reordered is not in the dict below it.
    pairs = OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value)
    plain: dict[str, Any] = {}
    for key, item in pairs:
        if not issubclass(type(key), str):
            raise TypeError(f"{_at(path)} has a key that is {a_type(key)}; the keys of a message must be str")
        text = _plain_str(key, path, role="a key of ")
        if text in plain:
            raise TypeError(f"{_at(path)} has two keys with the text {_quoted(text)}; only one can be sent")
        plain[text] = _plain(item, (*path, text), inside)
    return plain


def _plain_str(value: str, path: tuple[object, ...], role: str = "") -> str:
    text = str.__str__(value)
    try:
        _check_length(len(text) if text.isascii() else len(text.encode()))
    except UnicodeEncodeError as error:
        raise TypeError(
            f"{role}{_at(path)} is {a_type(value)} with a lone surrogate, {text[error.start]!a} at index "
            f"{error.start}, which UTF-8 cannot express; send bytes, or clean the text with an error handler"
        ) from None
    return text


def _plain_int(value: int, path: tuple[object, ...]) -> int:
    number = int.__int__(value)
    if _LOWEST <= number <= _HIGHEST:
        return number
    raise TypeError(
        f"{_at(path)} is {a_type(value)} of {number.bit_length()} bits; "
        "an int in a message must be from -2**63 to 2**64 - 1, so send it as a str"
    )


def _check_length(length: int) -> None:
    if length > _MAX_ITEM:
        raise MessageTooLarge(length, _MAX_ITEM)


def _entered(
    value: object, path: tuple[object, ...], parents: dict[int, tuple[object, ...]]
) -> dict[int, tuple[object, ...]]:
    """Return ``parents`` and the container ``value``. Raises TypeError for a cycle, or too many levels."""
    if id(value) in parents:
        around = _at(parents[id(value)])
        raise TypeError(f"{_at(path)} is {around}, which contains it; a message must not contain itself")
    if len(parents) >= MAX_DEPTH:
        raise TypeError(f"{_at(path)} is nested too deeply; a message may have at most {MAX_DEPTH} levels")
    return {**parents, id(value): path}


def _at(path: tuple[object, ...]) -> str:
    """Return ``path`` as a Python expression, with double quotes, in ASCII."""
    steps = [f"[{_quoted(step) if isinstance(step, str) else step}]" for step in path]
    if len(steps) > _PATH_STEPS:
        steps[_PATH_STEPS // 2 : -_PATH_STEPS // 2] = ["[...]"]
    return "message" + "".join(steps)


def _quoted(text: str) -> str:
    return json.dumps(text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}")


# -- Checks of bytes that another program may have written --


def _fault(message: object) -> str | None:
    """
    Return what is wrong with ``message``, as msgpack unpacked it; None if ``encode`` would accept it.

    It is checked level by level, so the depth of the data does not add to the depth of the Python stack.
    """
    if type(message) is not dict:
        return f"it holds {a_type(message)}, not a dict"
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH):
        deeper = []
        for container in level:
            if type(container) is dict:
                if any(type(key) is not str for key in container):
                    return "a key in it is not a str"
                container = container.values()
            for item in container:
                kind = type(item)
                if kind is dict or kind is list:
                    deeper.append(item)
                elif kind not in _SCALARS:
                    return f"it holds {a_type(item)}"
        if not deeper:
            return None
        level = deeper
    return f"it is nested more than {MAX_DEPTH} levels deep"


def _is_whole(data: bytes) -> bool:
    """
    True if ``data`` is exactly one msgpack object, found without creating any object.

    A wrong length makes msgpack allocate memory for data that does not follow. The MemoryError of that must
    not be taken for a real lack of memory.
    """
    unpacker = Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    try:
        unpacker.skip()
    except (ValueError, UnpackException):
        return False
    return bool(unpacker.tell() == len(data))


def _no_message(data: bytes, why: str) -> ValueError:
    return ValueError(f"{len(data)} bytes are not a message: {why}")
