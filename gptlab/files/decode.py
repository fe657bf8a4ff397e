"""Decode a file's bytes to text, in chunks: its encoding, its line ends, its byte-order marks."""

import codecs
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO

from gptlab.utils.errors import UserError

HEAD = 1 << 16  # bytes to look at, to detect an encoding or a format
CHUNK = 1 << 20  # bytes to read at once
LONGEST_LINE = 10_000_000  # characters, where lines are needed
BYTE_ORDER_MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
# Encodings in which most letters are not ASCII.
OTHER_SCRIPTS = "cp1251 koi8_r cp1253 cp1255 cp1256 gb18030 cp932 euc_jp cp949 big5".split()


def read_text(
    stream: BinaryIO, name: str, encoding: str | None, note: Callable[[str], None]
) -> Iterator[str]:
    """Yield the text, with every line end as \\n and without byte-order marks.

    `encoding`: None to detect it: UTF-8, until a byte shows that it is another one, which is passed
    to `note`. Raises UserError, with the line, for bytes that are not text.
    """
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    block = stream.read(CHUNK)
    used = encoding or detect_unicode(block[:HEAD]) or "utf-8"
    if encoding is None and not used.startswith("utf-8"):
        note(f"read as {used}")
    decoder = codecs.getincrementaldecoder(used)()
    lines, all_ascii = 1, True
    while True:
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeError as error:
            damaged, start = getattr(error, "object", block), getattr(error, "start", 0)
            all_ascii = all_ascii and bytes(damaged[:start]).isascii()
            is_utf8 = used.startswith("utf-8")
            if is_utf8 and not block and not (all_ascii and len(damaged) - start == 1):
                note("cut off within its last character")
                break
            if is_utf8 and encoding is None and all_ascii:
                used = guess_8bit_encoding(damaged[start : start + HEAD])
                note(f"read as {used}, a guess; data.encoding=NAME decides")
                decoder = codecs.getincrementaldecoder(used)()
                block = damaged
                continue
            byte, lines = damaged[start], lines + damaged[:start].count(b"\n")
            raise UserError(
                f"{name}: not {used.removesuffix('-sig').upper()} text (byte 0x{byte:02x} in line "
                f"{lines}); save it as UTF-8, or name its encoding, such as data.encoding=latin-1"
            ) from None
        text = newlines.decode(text, final=not block)
        if "\0" in text:
            raise UserError(f"{name}: a binary file, not text (NUL near line {lines})")
        all_ascii = all_ascii and text.isascii()
        lines += text.count("\n")
        yield text if all_ascii else text.replace("\ufeff", "")
        if not block:
            break
        block = stream.read(CHUNK)


def read_lines(chunks: Iterator[str], name: str) -> Iterator[str]:
    """Yield the lines without their ends; raise UserError for one that is too long."""
    rest, number = "", 1
    for chunk in chunks:
        *complete, rest = (rest + chunk).split("\n")
        yield from complete
        number += len(complete)
        if len(rest) > LONGEST_LINE:
            raise UserError(
                f"{name}: line {number} is longer than {LONGEST_LINE:,} characters; "
                "if it is text, break it into lines"
            )
    yield rest


def detect_unicode(head: bytes) -> str | None:
    """Detect a byte-order mark, or UTF-16 without one: every other byte is mostly zero."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return encoding
    even, odd = head[::2].count(0), head[1::2].count(0)
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > 0.3 * len(head) / 2 and others < 0.01 * len(head):
            try:
                codecs.getincrementaldecoder(encoding)().decode(head)
            except UnicodeDecodeError:
                continue
            return encoding
    return None


def guess_encoding(sample: bytes) -> str:
    """Return the encoding of the first bytes of a text; they may end within a character."""
    if encoding := detect_unicode(sample):
        return encoding
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        return "utf-8"
    except UnicodeDecodeError:
        return guess_8bit_encoding(sample)


def guess_8bit_encoding(sample: bytes) -> str:
    """Return the likely encoding of bytes that are not UTF-8: Windows-1252, or another script's."""
    foreign = sum(byte > 127 for byte in sample)
    letters = foreign + sum(byte < 128 and chr(byte).isalpha() for byte in sample)
    if foreign > 8 and foreign > 0.25 * letters:
        from charset_normalizer import from_bytes

        if match := from_bytes(sample, cp_isolation=OTHER_SCRIPTS).best():
            return match.encoding
    try:
        sample.decode("cp1252")
        return "cp1252"
    except UnicodeDecodeError:
        return "latin-1"
