"""Find the files that data.path names: files, folders, globs, or a list of these."""

import glob
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from gptlab.config.schema import DataConfig
from gptlab.files.columns import read_fields
from gptlab.files.decode import HEAD
from gptlab.files.documents import read_documents
from gptlab.files.formats import UnreadableFile, check_encoding, detect_format
from gptlab.files.report import ReadReport, count_kinds
from gptlab.files.streams import (
    FoundFile,
    check_zip,
    explain_read_errors,
    leftover_kind,
    open_files,
    open_stream,
)
from gptlab.files.tables import read_rows
from gptlab.utils.errors import UserError, did_you_mean

# What earlier versions read as now: the identity of these files does not name the format.
LEGACY_FORMATS = {"text": ("text",), "records": ("tsv", "json", "jsonl")}
LEGACY_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def find_files(key: str, paths: Any, data: DataConfig, report: ReadReport) -> list[FoundFile]:
    """List the files to read; raises UserError if there is none, or a named one is unreadable."""
    if paths is None:
        raise UserError(f"{key} is not set; name your file: {key}=FILE")
    if not isinstance(paths, str | list) or not paths:
        raise UserError(f"{key}={paths}: must be a file, a list of files, or a folder")
    check_encoding(data.encoding)
    names = [paths] if isinstance(paths, str) else paths
    try:
        return [file for name in names for file in expand(key, str(name), data, report)]
    except (RuntimeError, OSError, ValueError) as error:  # unknown home folder, NUL in a name
        raise UserError(f"{key}={paths!s:.200}: {str(error).splitlines()[0]:.200}") from None


def expand(key: str, name: str, data: DataConfig, report: ReadReport) -> list[FoundFile]:
    """List the files of one file, folder or glob; raises UserError if there is none."""
    path = Path(name).expanduser()
    if path.is_file():
        return [FoundFile(path, look_at(path, data, is_named=True))]
    if path.is_dir():
        return readable_files(key, name, sorted(walk(path, report)), data, report, is_named=False)
    if path.exists():
        raise UserError(f"{key}={name}: a pipe or device can be read only once; save it to a file")
    if glob.has_magic(name):
        found = [Path(each) for each in sorted(glob.glob(str(path), recursive=True))]
        if "**" in name:
            found = [each for each in found if each.is_file()]
        paths = [p for f in found for p in (sorted(walk(f, report)) if f.is_dir() else [f])]
        if not paths:
            raise UserError(f"{key}={name}: no file has such a name")
        return readable_files(key, name, paths, data, report, is_named=True)
    if "://" in name:
        raise UserError(f"{key}={name}: an address; download the file and name it here")
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    suggestion = did_you_mean(path.name, siblings)
    missing = [part for part in name.split(",") if not Path(part).expanduser().exists()]
    if 0 < len(missing) < len(name.split(",")):
        suggestion = f"; in this list, {' and '.join(missing)} does not exist"
    raise UserError(f"{key}={name}: no such file or folder{suggestion}")


def readable_files(
    key: str, name: str, paths: list[Path], data: DataConfig, report: ReadReport, is_named: bool
) -> list[FoundFile]:
    """Return the files that can be read; count the others, and raise UserError if all are these."""
    files, kinds = [], []
    for path in paths:
        try:
            files.append(FoundFile(path, look_at(path, data, is_named)))
        except UnreadableFile as error:
            report.skipped[str(path)] = error.kind
            kinds.append(error.kind)
    if not files:
        seen = f"only {count_kinds(kinds)}" if kinds else "it is empty"
        raise UserError(f"{key}={name}: no text in this folder ({seen})")
    return files


def look_at(path: Path, data: DataConfig, is_named: bool) -> str:
    """Return the format of a file by name and content; raise UnreadableFile if it has none."""
    with explain_read_errors(path), open_stream(path) as stream:
        format = detect_format(str(path), stream.peek(HEAD)[:HEAD], data, is_named)
    if format == "zip":
        with explain_read_errors(path):
            check_zip(path)
    return format


def walk(folder: Path, report: ReadReport) -> Iterator[Path]:
    """Yield the files below a folder, each once: through links, but not in a circle."""
    seen = {file_id(folder.stat())}
    links: list[Path] = []

    def visit(directory: str) -> Iterator[Path]:
        with os.scandir(directory) as entries:
            for entry in entries:
                if kind := leftover_kind(entry.name):
                    report.skipped[entry.path] = kind
                elif entry.is_dir():
                    if (number := file_id(os.stat(entry.path))) in seen:
                        report.skipped[entry.path] = "repeated link"
                    else:
                        seen.add(number)
                        yield from visit(entry.path)
                elif not entry.is_file():
                    broken = entry.is_symlink()
                    report.skipped[entry.path] = "broken link" if broken else "special file"
                elif entry.is_symlink():
                    links.append(Path(entry.path))
                else:
                    seen.add(file_id(os.stat(entry.path)))
                    yield Path(entry.path)

    yield from visit(str(folder))
    for link in sorted(links):
        if (number := file_id(link.stat())) in seen:
            report.skipped[str(link)] = "repeated link"
        else:
            seen.add(number)
            yield link


def file_id(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def file_stats(files: list[FoundFile], task: str = "text") -> list[list[Any]]:
    """Name, size and modification time of each file: they change when its content does.

    And its format, unless a file of this name has always been read so.
    """
    stats: list[list[Any]] = []
    for path, format in files:
        stat = path.stat()
        stats.append([os.path.realpath(path), stat.st_size, stat.st_mtime_ns])
        if not (format in LEGACY_FORMATS[task] or path.name.endswith(LEGACY_SUFFIXES)):
            stats[-1].append(format)
    return stats


def check_files(key: str, paths: Any, data: DataConfig) -> None:
    """Raise UserError for files that are missing, empty, or whose first text cannot be read."""
    report = ReadReport()
    files = find_files(key, paths, data, report)
    first = next((file for file in files if file.path.stat().st_size), None)
    if first is None:
        raise UserError(f"{key}={paths!s:.200}: has no text, the file is empty")
    if data.task == "text":
        next(read_documents(first, data, report), None)
        return
    with explain_read_errors(first.path):
        for file in open_files(first, data, report):
            if file.format != "tsv":  # which may have no heading
                for place, row in islice(read_rows(file), 1):
                    read_fields(row, f"{file.name}: {place}", data)
            return
