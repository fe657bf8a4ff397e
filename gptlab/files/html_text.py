"""Strip the tags of web pages."""

import html
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser

HIDDEN = {"script", "style", "head", "template", "noscript", "svg"}
BLOCKS = set(
    "address article aside blockquote br dd div dl dt fieldset figcaption figure footer form h1 h2 "
    "h3 h4 h5 h6 header hr li main nav ol p pre section table td th tr ul".split()
)
SPACES = re.compile(r" *[^\S ]\s*|  +")  # white space that is not a single space


class TextOfPage(HTMLParser):
    """Collect the visible text; a block starts on a new line."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)  # with it, text without a tag stays in memory
        self.parts: list[str] = []
        self.hidden: list[str] = []  # the open tags around, whose text is not shown
        self.verbatim = 0  # open <pre> tags

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag in HIDDEN:
            self.hidden.append(tag)
        elif tag == "body":  # a head need not be closed
            self.hidden.clear()
        self.verbatim += tag == "pre"
        self.parts += ["\n"] * (tag in BLOCKS)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.hidden:
            del self.hidden[self.hidden.index(tag) :]
        self.verbatim = max(0, self.verbatim - (tag == "pre"))
        self.parts += ["\n"] * (tag in BLOCKS)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data if self.verbatim else SPACES.sub(" ", data))

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&{name};"))

    def handle_charref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&#{name};"))

    def take(self) -> str:
        text, self.parts = "".join(self.parts), []
        return text


def strip_tags(chunks: Iterable[str]) -> Iterator[str]:
    """Yield the visible text of a page, in chunks, with at most one blank line in a row."""
    parser, spaces = TextOfPage(), ""
    for chunk in chunks:
        parser.feed(chunk)
        text = spaces + parser.take()
        complete = text.rstrip()
        spaces = text[len(complete) :]  # more of them may follow
        yield tidy(complete)
    parser.close()
    yield tidy(spaces + parser.take())


def tidy(text: str) -> str:
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text)
