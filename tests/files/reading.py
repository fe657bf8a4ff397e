"""Read files as a corpus does, for the tests in this folder."""

from pathlib import Path
from typing import Any

from gptlab.config.schema import DataConfig
from gptlab.files.documents import read_documents
from gptlab.files.find import find_files
from gptlab.files.report import ReadReport


def read(path: Any, **settings: Any) -> tuple[list[str], list[str]]:
    """Return the non-empty documents of data.path, and the lines of the report."""
    data, report = (
        DataConfig(path=path if isinstance(path, list) else str(path), **settings),
        ReadReport(),
    )
    documents, text = [], ""
    for file in find_files("data.path", data.path, data, report):
        for chunk in read_documents(file, data, report):
            text += chunk.text
            if chunk.ends_document:
                documents += [text.strip()] if text.strip() else []
                text = ""
    return documents, report.lines()


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
