"""
The copies on the hot path are equal to what they are copies of.

A call costs 0.1 µs in a critical section of 2 µs. So the two operations on the hot path hold copies of the mutex's
protocol, and the queues hold copies of ``Records.unlink`` and of the heap's quick lists. These tests compare the syntax
trees, with the names made equal.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from typing import Any, Callable

import pytest

from asgi_ipc.locking.mutex import BusyError, RobustMutex
from asgi_ipc.locking.reentrancy import NOT_INSIDE
from asgi_ipc.shm.layout import AT_EPOCH, AT_SEQ
from asgi_ipc.stores.messages.queues import Queues
from asgi_ipc.stores.messages.records import Records
from asgi_ipc.stores.messages.store import MessageStore
from asgi_ipc.structures.heap import Heap


def tree_of(function: Callable[..., Any]) -> ast.FunctionDef:
    """The syntax tree of a function."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(found, ast.FunctionDef)
    return found


class Rename(ast.NodeTransformer):
    """Gives variables the names that the original has."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = self.names.get(node.id, node.id)
        return node


# -- the protocol of the mutex ---------------------------------------------------------------------------------

#: What a copy calls the mutex and the result of its operation.
COPIES = {"append": "refused", "pop": "taken"}


def protocol(function: Callable[..., Any], result: str) -> str:
    """
    The way into the critical section and out of it, without the operation itself.

    A copy may read the clock again after it has waited.
    """
    tree = tree_of(function)
    whole = next(node for node in ast.walk(tree) if isinstance(node, ast.Try) and isinstance(node.body[0], ast.With))
    before = tree.body[tree.body.index(whole) - 1]
    for node in ast.walk(whole):
        for field in ("body", "orelse"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                kept = [each for each in statements if not (isinstance(each, ast.Assign) and targets(each) == ["now"])]
                for each in kept:
                    if isinstance(each, ast.Assign) and targets(each) == [result]:
                        each.targets, each.value = [ast.Name("result", ast.Store())], ast.Constant("the operation")
                setattr(node, field, kept)
    for node in ast.walk(whole):  # a copy asks its CriticalSections whether to wait
        if isinstance(node, ast.Call):
            node.args = [ast.Name("waits", ast.Load()) if ast.unparse(each) == "sections.waits" else each
                         for each in node.args]  # fmt: skip
    way = whole.body[:1]  # the with statement: behind it every function goes on in its own way
    cleaning = whole.handlers[0].body[0]
    renamed = [Rename({"self": "mutex"}).visit(node) for node in (before, *way, cleaning)]
    return "\n".join(ast.dump(node) for node in renamed)


def targets(node: ast.Assign) -> list[str]:
    return [target.id for target in node.targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize(("name", "result"), COPIES.items(), ids=COPIES)
def test_a_copy_of_the_protocol_is_equal_to_it(name: str, result: str) -> None:
    assert protocol(getattr(MessageStore, name), result) == protocol(RobustMutex.run, "result")


def test_every_copy_of_the_protocol_is_compared() -> None:
    """A frame that runs the protocol keeps an Entry: a new copy that is not listed here would have one, too."""
    copies = {
        name
        for name, function in inspect.getmembers(MessageStore, inspect.isfunction)
        if any(isinstance(node, ast.Name) and node.id == "NOT_INSIDE" for node in ast.walk(tree_of(function)))
    }
    assert copies == set(COPIES)


def test_a_copy_in_another_order_is_noticed() -> None:
    """The slot is stored before the epoch is checked: a copy that checks first would let two processes in."""

    def swapped(self: Any, mutex: Any, queues: Any, waits: bool, now: int) -> None:
        entry = NOT_INSIDE
        try:
            with mutex.lock:
                if mutex.inside is not None:
                    mutex.resolve_inside()
                entry = mutex.inside = mutex.entry
                words = mutex.words
                words[mutex.slot_at] = mutex.intent
                try:
                    if mutex.token(0):
                        raise BusyError
                except BusyError:
                    mutex.enter(waits)
                else:
                    epoch = mutex.epoch
                    if words[AT_EPOCH] != epoch:
                        mutex.enter(waits)
                    words[mutex.slot_at] = epoch
                taken = queues.dequeue([], 0)
                if mutex.inside is entry:
                    words[mutex.slot_at] = mutex.intent
                    mutex.post()
                    words[AT_SEQ] = now
                    words[mutex.slot_at] = 0
                    mutex.inside = None
        except BaseException as error:
            mutex.abandon(entry, error)
            raise
        assert taken

    assert protocol(swapped, "taken") != protocol(RobustMutex.run, "result")


# -- the quick lists of the heap -------------------------------------------------------------------------------


class Normalise(Rename):
    """Also leaves out return statements, which are a function's own matter, and reads ``self.records`` as ``self``."""

    def visit_Return(self, node: ast.Return) -> None:
        """Left out."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        return node.value if node.attr == "records" else node


def statements(function: Callable[..., Any], first: str, last: str, names: dict[str, str]) -> list[str]:
    """The statements of a function from one whose source begins with ``first`` to one that begins with ``last``."""
    for node in ast.walk(tree_of(function)):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            sources = [ast.unparse(each) for each in body]
            begins = [number for number, source in enumerate(sources) if source.startswith(first)]
            if begins:
                rest = body[begins[0] :]
                end = next(number for number, each in enumerate(rest) if ast.unparse(each).startswith(last))
                return [ast.dump(Normalise(names).visit(each)) for each in rest[: end + 1]]
    raise AssertionError(f"{function.__qualname__} has no statement {first!r}")


#: The original, a copy, the first and the last statement of the original, and what the copy calls things.
PARTS = {
    "quick list, allocate": (
        Heap.allocate,
        Queues.enqueue,
        "if words[block - 1] >> 2 != total:",
        "words[AT_QUICK + total] = words[block]",
        {"message": "block"},
    ),
    "quick list, free": (
        Heap.free,
        Queues.dequeue,
        "head = words[AT_QUICK + total]",
        "if waiting <= QUICK_MOST:",
        {"message": "block"},
    ),
    "unlink": (
        Records.unlink,
        Queues.dequeue,
        "words[link] = words[message]",
        "if length >= SHARED:",
        {"head_at": "link"},
    ),
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_copy_of_a_part_is_equal_to_it(part: tuple[Any, ...]) -> None:
    original, copy, first, last, names = part
    expected = statements(original, first, last, {})
    for called, named in names.items():
        first, last = (re.sub(rf"\b{named}\b", called, source) for source in (first, last))
    assert statements(copy, first, last, names) == expected
