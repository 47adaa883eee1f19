"""What tests look for in an HTML page."""

import base64
import re
from collections import defaultdict
from dataclasses import dataclass
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br"}
FETCHING = re.compile(r"url\(|@import|https?:|(?<![:\w/])//\w", re.IGNORECASE)


@dataclass(frozen=True)
class EmbeddedImage:
    """An image within a page."""

    kind: str
    alt: str
    content: bytes


class Parsed(HTMLParser):
    """A page, read.

    Attributes:
        tags: names of all elements.
        ids: of the sections.
        links: targets of all anchors.
        fetched: what the page would load from elsewhere.
        images: inside the page.
        texts: by element.
        tables: rows of cells.
        best: cells that are marked.
        unclosed: elements that are left open, or closed without being open.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.images: list[EmbeddedImage] = []
        self.texts: dict[str, list[str]] = defaultdict(list)
        self.tables: list[list[list[str]]] = []
        self.best: list[str] = []
        self.unclosed: list[str] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        for name in ("src", "href", "srcset", "action"):
            if name in given and not given[name].startswith(("data:", "#")):
                self.fetched.append(given[name])
        self.fetched += FETCHING.findall(given.get("style", ""))
        if tag == "img":
            kind, _, content = given["src"].removeprefix("data:").partition(";base64,")
            self.images.append(EmbeddedImage(kind, given["alt"], base64.b64decode(content, validate=True)))
        elif tag == "a":
            self.links.append(given["href"])
        elif tag == "section":
            self.ids.append(given["id"])
        elif tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        if tag not in VOID:
            self._open.append((tag, given, []))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1][0] != tag:
            self.unclosed.append(tag)
            return
        _, given, parts = self._open.pop()
        text = " ".join(" ".join(parts).split())
        self.texts[tag].append(text)
        if tag in ("td", "th"):
            self.tables[-1][-1].append(text)
            if given.get("class") == "best":
                self.best.append(text)
        if self._open and tag != "style":
            self._open[-1][2].append(text)

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][2].append(data)
            if self._open[-1][0] == "style":
                self.fetched += FETCHING.findall(data)


def parse(text: str) -> Parsed:
    """Read a page."""
    parsed = Parsed()
    parsed.feed(text)
    parsed.close()
    parsed.unclosed += [tag for tag, *_ in parsed._open]
    return parsed
