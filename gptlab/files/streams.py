"""Open files for reading: compressed or not, alone or as members of a .zip or .tar archive."""

import bz2
import contextlib
import functools
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from gptlab.config.schema import DataConfig
from gptlab.files.decode import HEAD, read_lines, read_text
from gptlab.files.formats import (
    ARCHIVES,
    FORMATS,
    REFUSED_ZIPS,
    UnreadableFile,
    decode_head,
    describe_suspicion,
    detect_format,
    refuse,
    suffix_of,
    trusts_content,
)
from gptlab.files.report import ReadReport
from gptlab.utils.errors import UserError

COMPRESSIONS: list[tuple[bytes, Any]] = [  # how a file begins, and what opens it
    (b"\x1f\x8b", lambda stream: gzip.GzipFile(fileobj=stream)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
]
LEFTOVERS = (".", "~$", "__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini")
METADATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


class FoundFile(NamedTuple):
    """A file on disk, and the name of its format in formats.SUFFIXES."""

    path: Path
    format: str


@dataclass
class OpenFile:
    """A file, or a member of an archive, at its start."""

    name: str  # for messages
    format: str
    stream: io.BufferedReader  # uncompressed
    data: DataConfig
    report: ReadReport

    def text(self) -> Iterator[str]:
        """Yield the decoded text in chunks."""
        note = functools.partial(self.report.note, self.name)
        return read_text(self.stream, self.name, self.data.encoding, note)

    def lines(self) -> Iterator[str]:
        """Yield the lines without their ends."""
        return read_lines(self.text(), self.name)

    def seekable(self) -> IO[bytes]:
        """Return the file for random access: a temporary copy unless it is a plain file."""
        if isinstance(self.stream.raw, io.FileIO):
            return self.stream
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        shutil.copyfileobj(self.stream, copy)
        copy.seek(0)
        return copy


def leftover_kind(name: str) -> str | None:
    """Return what a file or folder of this name is if it is no data: hidden, left by an editor."""
    if name in METADATA:
        return "metadata file"
    is_hidden = name.startswith(LEFTOVERS) or name.endswith("~") or name[:1] == name[-1:] == "#"
    return "hidden file" if is_hidden else None


@contextlib.contextmanager
def explain_read_errors(name: object) -> Iterator[None]:
    """Turn the errors of damaged, encrypted and unreadable files into a UserError."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
            tarfile.TarError) as error:  # fmt: skip
        raise UserError(f"{name}: damaged or cut off ({error}); download it again") from None
    except OSError as error:
        if error.strerror is None:  # of bz2
            raise UserError(f"{name}: damaged or cut off ({error}); download it again") from None
        raise UserError(f"{name}: cannot be read ({error.strerror})") from None
    except RuntimeError as error:  # zipfile: a password or an unknown compression
        if not str(error).startswith(("File ", "That compression")):
            raise
        raise UserError(f"{name}: an encrypted or unusual archive ({error}); unpack it") from None


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file that may be compressed; `peek(HEAD)` of it returns its first bytes."""
    with path.open("rb", buffering=HEAD) as file:
        yield decompress(file)


def decompress(stream: Any) -> io.BufferedReader:
    head = stream.peek(10)
    for magic, opener in COMPRESSIONS:
        if head.startswith(magic) and (magic != b"BZh" or head[4:10] == b"1AY&SY"):
            return io.BufferedReader(opener(stream), HEAD)
    return stream


def open_files(found: FoundFile, data: DataConfig, report: ReadReport) -> Iterator[OpenFile]:
    """Open a file, or one after another the members of an archive."""
    name = str(found.path)
    with open_stream(found.path) as stream:
        if found.format not in ARCHIVES:
            yield describe(OpenFile(name, found.format, stream, data, report))
            return
        count = 0
        for member, content in archive_members(found, stream):
            member_name = f"{name}/{member}"
            if kind := next(filter(None, map(leftover_kind, member.split("/"))), None):
                report.skipped[member_name] = kind
                continue
            try:
                content = decompress(content)
                head = content.peek(HEAD)[:HEAD]
                format = detect_format(member_name, head, data, is_named=False)
                if format in ARCHIVES:
                    raise refuse(member_name, "an archive in an archive", "unpack it")
            except UnreadableFile as error:
                report.skipped[member_name] = error.kind
                continue
            count += 1
            yield describe(OpenFile(member_name, format, content, data, report))
        if not count:
            raise UserError(f"{name}: no text in this archive; {'; '.join(report.lines())}")


def archive_members(
    found: FoundFile, stream: io.BufferedReader
) -> Iterator[tuple[str, io.BufferedReader]]:
    """Yield the name and the content of each file; the content is valid until the next one."""
    if found.format == "tar":
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for entry in tar:
                if entry.isfile():
                    content: Any = tar.extractfile(entry)
                    yield entry.name, io.BufferedReader(content, HEAD)
        return
    with zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                content = archive.open(info)
                yield info.filename, io.BufferedReader(content, HEAD)


def check_zip(path: Path) -> None:
    """Raise UnreadableFile for a document in the form of a zip file, such as .docx."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if not {"[Content_Types].xml", "mimetype"} & set(names):
        return
    for start, what, advice in REFUSED_ZIPS:
        if any(name.startswith(start) for name in names):
            raise refuse(str(path), what, advice)


def describe(file: OpenFile) -> OpenFile:
    """Report the file, and what is unusual about it."""
    file.report.add_file(file.name)
    suffix, name = suffix_of(file.name), file.name
    usual = FORMATS.get(suffix, "text")
    if file.format != usual and file.format != file.data.format:
        file.report.note(name, f"read as {file.format}, by its content")
    elif file.format == "text" and file.data.format is None and trusts_content(suffix):
        text = decode_head(name, file.stream.peek(HEAD)[:HEAD], file.data.encoding)
        if suspicion := describe_suspicion(text):
            file.report.note(name, suspicion)
    return file
