"""HTML that is safe by its making: text is escaped unless it is Html already."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any


class Html(str):
    """A piece of a page."""

    def __add__(self, other: str) -> "Html":
        return Html(str(self) + piece(other))

    def join(self, parts: Any) -> "Html":
        return Html(str(self).join(piece(part) for part in parts))


def piece(part: Any) -> str:
    return str(part) if isinstance(part, Html) else escape(str(part))


EMPTY = {"img", "input", "source", "meta"}


def element(tag: str, /, *content: Any, **attributes: Any) -> Html:
    """`<tag …>content</tag>`; `class_` and `for_` as Python must spell them; True: no value."""
    told = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            told += f" {key}"
        elif value is not False and value is not None:
            told += f' {key}="{escape(str(value))}"'
    end = "" if tag in EMPTY else f"</{tag}>"
    return Html(f"<{tag}{told}>{Html('').join(content)}{end}")


def table(heading: Sequence[Any], rows: Sequence[Sequence[Any]], caption: str = "") -> Html:
    """The first column are the rows' names."""
    head = element("thead", element("tr", *(element("th", each, scope="col") for each in heading)))
    lines = [
        element("tr", element("th", row[0], scope="row"), *(element("td", c) for c in row[1:]))
        for row in rows
    ]
    told = element("caption", caption) if caption else ""
    whole = element("table", told, head, element("tbody", *lines))
    return element("div", whole, class_="wide", tabindex="0", role="group")


def picture(forms: dict[str, bytes], words: str) -> Html:
    """A picture in its light and its dark form, as the reader has it; `words` say what it shows."""
    light, dark = (data(forms[name]) for name in ("light", "dark"))
    source = element("source", srcset=dark, media="(prefers-color-scheme: dark)")
    return element("picture", source, element("img", src=light, alt=words))


def data(content: bytes) -> str:
    """An address that holds the picture itself."""
    form = "png" if content.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"
