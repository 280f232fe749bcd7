"""The pictures of the docs are sound SVG, readable where they are shown, and say what the code says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from asgi_ipc import IPCChannelLayer
from asgi_ipc.shm import layout
from asgi_ipc.shm.fifo_directory import fifo_path
from asgi_ipc.shm.permissions import SHM_DIRECTORY
from asgi_ipc.shm.segment import ADMIN_LOCK_BYTE
from asgi_ipc.shm.semaphores import Semaphores, lost_semaphore
from asgi_ipc.stores.groups import members
from asgi_ipc.stores.messages import channels, records
from asgi_ipc.stores.messages.group_send import SEND_SLICE
from asgi_ipc.structures.heap import PIECE
from asgi_ipc.structures.slab import PAGE_RECORDS
from asgi_ipc.waiting.thread import POLL_PERIOD

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
#: The other SVG files are plots, which ``benchmarks`` draws.
PICTURES = ("architecture", "groups", "journey", "segment-map")
SVG = "{http://www.w3.org/2000/svg}"
#: How wide a page of the docs shows a picture, in pixels, and the smallest text that it may have then.
SHOWN, SMALLEST = 760, 13

each_picture = pytest.mark.parametrize("name", PICTURES)


def source(name: str) -> str:
    """Return the text of a picture's file."""
    return (IMAGES / f"{name}.svg").read_text(encoding="utf-8")


def drawn(name: str) -> ElementTree.Element:
    """Return the root element of a picture."""
    return ElementTree.fromstring(source(name))


def texts(name: str) -> list[str]:
    """Return the lines of text of a picture, in the order in which they are drawn."""
    return [each.text or "" for each in drawn(name).iter(f"{SVG}text")]


# -- form -------------------------------------------------------------------------------------------------------


def test_every_svg_is_a_plot_or_in_the_list() -> None:
    drawn_by_hand = {path.stem for path in IMAGES.glob("*.svg") if "Matplotlib" not in path.read_text("utf-8")}
    assert drawn_by_hand == set(PICTURES)


@each_picture
def test_a_picture_has_a_title_a_description_and_its_size(name: str) -> None:
    root = drawn(name)
    assert root.tag == f"{SVG}svg"
    for tag in ("title", "desc"):
        assert (root.findtext(f"{SVG}{tag}") or "").strip()
    assert root.get("viewBox") == f"0 0 {root.get('width')} {root.get('height')}"
    assert len(source(name)) < 32 * 1024


@each_picture
def test_a_picture_needs_nothing_from_elsewhere_and_runs_nothing(name: str) -> None:
    assert "<!DOCTYPE" not in source(name)
    assert set(re.findall(r"[a-z]+://[^\"\s)]+", source(name))) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|@font-face|url\((?!#)", source(name))
    for element in drawn(name).iter():
        assert element.tag.removeprefix(SVG) in {
            "svg", "title", "desc", "style", "defs", "marker", "pattern", "rect", "circle", "path", "text",
        }  # fmt: skip
        assert not [attribute for attribute in element.attrib if "href" in attribute or attribute.startswith("on")]


@each_picture
def test_a_picture_paints_its_own_background_first(name: str) -> None:
    root = drawn(name)
    first = next(element for element in root if element.tag in {f"{SVG}rect", f"{SVG}path", f"{SVG}text"})
    assert first.get("class") == "panel"
    assert (float(first.get("width", 0)), float(first.get("height", 0))) == (
        float(root.get("width", 0)) - 1,
        float(root.get("height", 0)) - 1,
    )
    assert re.search(r"\.panel \{ fill: #[0-9a-f]{6};", source(name))


@each_picture
def test_text_is_large_enough_where_it_is_shown(name: str) -> None:
    sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", source(name))]
    assert sizes
    assert min(sizes) * SHOWN / float(drawn(name).get("width", 0)) >= SMALLEST


# -- facts ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(SHM_DIRECTORY is None, reason="the pictures show Linux, where shared memory has paths")
def test_names_of_files(prefix: str, make_layer: Callable[..., IPCChannelLayer]) -> None:
    layer = make_layer()
    for store in (layer.message_store, layer.group_store):
        path = f"{SHM_DIRECTORY}/mysite{store.name.removeprefix(prefix)}"
        for name in ("architecture", "groups", "segment-map"):
            assert path in texts(name)
    semaphore = "sem." + Semaphores("SEGMENT", 0xA, b"secret", 0o600, 0).name(0xB)[1:]
    assert lost_semaphore("SEGMENT").fullmatch(semaphore)
    assert semaphore.rpartition(".")[0] + ".HASH" in texts("segment-map")
    fifo = Path(fifo_path("SEGMENT", 0xA))
    assert f"{fifo.parent.name}/TOKEN" in texts("segment-map")
    assert fifo.name == "a"


def test_numbers_of_the_segment_map() -> None:
    geometry = layout.Geometry.of(2**20, layout.KIND_GROUPS)
    assert {
        f"{layout.HEADER_WORDS} words",
        f"{layout.SLOTS:,} of {layout.SLOT_WORDS} words,",
        f"from word {layout.AT_SLOTS:,}",
        f"from word {layout.AT_POWER_MAP:,}",
        f"from word {layout.AT_BUCKETS:,}",
        f"{geometry.indexes // geometry.buckets} for each bucket",
        f"Channel record, in a page of {PAGE_RECORDS}",
        f"no memory yet: RESERVED moves on by {PIECE * layout.WORD // 1024} KiB at a time",
        f"byte {ADMIN_LOCK_BYTE}: the admin lock",
    } <= set(texts("segment-map"))


def test_the_journey_says_how_often_a_receiver_polls() -> None:
    assert POLL_PERIOD == 1
    assert any("B polls once a second" in line for line in texts("journey"))


def test_the_slices_of_the_group_send() -> None:
    lines = texts("groups")
    assert f"Send in slices of {SEND_SLICE}" in lines
    count = int(next(line for line in lines if line.startswith("news: ")).split()[1])
    slices = [min(SEND_SLICE, count - first) for first in range(0, count, SEND_SLICE)]
    assert [line for line in lines if line.endswith(" messages")] == [f"{each} messages" for each in slices]
    squares = [path.get("d", "") for path in drawn("groups").iter(f"{SVG}path") if path.get("class") == "memory"]
    assert [each.count("M") for each in squares] == slices
    assert sum(int(each) for each in re.findall(r"with (\d+) members", "\n".join(lines))) == count


# -- the words of the segment map -------------------------------------------------------------------------------


def words_by_class() -> dict[str, set[str]]:
    """Return the words that the docstring of ``layout`` lists, by class, with those that it describes."""
    parts = re.split(r"\n    (truth|counters|derived) |\n +(fixed) ", layout.__doc__ or "")
    found: dict[str, set[str]] = {}
    heads = [part for part in parts if part is not None]
    for kind, text in zip(heads[1::2], heads[2::2]):
        text = text.split("\n\n")[0]
        found[kind.removesuffix("s")] = set(re.findall(r"\b[A-Z_]{2,}\b", text))
    unchanged = {name for name, at in header_words().items() if at <= layout.AT_CHECKSUM}
    found["fixed"] |= unchanged
    found["mutex"] = {"EPOCH", "SEQ", "NAPS", "SCRATCH", "INTERRUPTED", "ENDING", "STARVING", "STARVING_UNTIL", "DIED"}
    return found


def header_words() -> dict[str, int]:
    """Return the words of the header by name."""
    named = {name.removeprefix("AT_"): at for name, at in vars(layout).items() if name.startswith("AT_")}
    return {name: at for name, at in named.items() if at < layout.HEADER_WORDS}


def chips() -> list[tuple[str, str]]:
    """Return the words of the segment map, each with its class."""
    found = [(each.get("data-class", ""), each.text or "") for each in drawn("segment-map").iter(f"{SVG}text")]
    return [(kind, word) for kind, word in found if kind]


def test_each_word_of_the_segment_map_has_the_class_that_the_layout_gives_it() -> None:
    in_picture: dict[str, set[str]] = {}
    for kind, word in chips():
        if word.isupper():
            in_picture.setdefault(kind, set()).add(word)
    assert in_picture == words_by_class()


def test_the_segment_map_has_every_word_of_the_header() -> None:
    assert set(header_words()) <= {word for _, word in chips()}


def test_a_word_of_the_segment_map_looks_like_its_class() -> None:
    elements = list(drawn("segment-map"))
    for box, label in zip(elements, elements[1:]):
        if label.get("data-class"):
            assert box.get("class") == label.get("data-class"), label.text


@pytest.mark.parametrize(
    ("label", "module", "first", "last"),
    [
        (f"Channel record, in a page of {PAGE_RECORDS}", channels, "HEAD", "INDIVIDUAL"),
        ("Message", records, "NEXT", "BODY"),
        ("Member", members, "NEXT", "NONCE"),
    ],
)
def test_the_words_of_a_record_are_in_their_order(label: str, module: ModuleType, first: str, last: str) -> None:
    found = list(drawn("segment-map").iter(f"{SVG}text"))
    start = next(i for i, each in enumerate(found) if each.text == label) + 1
    words = []
    for each in found[start:]:
        if not each.get("data-class"):
            break
        words.append(each.text or "")
    at = [getattr(module, word) for word in words if word.isupper()]
    assert at == sorted(at)
    assert words.index(last) - words.index(first) == getattr(module, last) - getattr(module, first)
    assert words.index(first) == getattr(module, first)
