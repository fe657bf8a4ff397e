"""Where documents come from: the embedded stories, files, the Hugging Face hub."""

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptlab.config.schema import DataConfig
from gptlab.data import readers
from gptlab.data.readers import Piece
from gptlab.data.tokenizer import GPT2Tokenizer
from gptlab.data.toy import stories
from gptlab.utils.atomic_io import atomic_folder
from gptlab.utils.errors import UserError, resolve_choice


class Source(ABC):
    """Documents in splits; the same ones, in the same order, each time they are asked for."""

    splits: list[str]  # "train", and "valid" where the source brings its own

    @abstractmethod
    def identity(self) -> Any:
        """Plain values that change when the documents change."""

    @abstractmethod
    def pieces(self, split: str) -> Iterator[Piece]:
        """The documents' pieces (see readers); raises UserError for what cannot be read."""

    def nats(self, document: str) -> float | None:
        """The document's true negative log-likelihood, where the source knows it."""
        return None

    def entropy(self) -> float | None:
        """Nats that a document has on average, where the source knows it."""
        return None


class ToySource(Source):
    """Stories from the grammar in toy_stories.py."""

    def __init__(self, config: DataConfig, seed: int):
        self.splits = ["train"]
        self.count = config.max_samples or 20_000
        self.seed = seed
        self.grammar = stories.grammar()

    def identity(self) -> Any:
        return ["toy_stories", self.grammar.fingerprint(), self.count, self.seed]

    def pieces(self, split: str) -> Iterator[Piece]:
        for index in range(self.count):
            yield self.grammar.write(self.seed, index).text, True

    def nats(self, document: str) -> float | None:
        return -self.grammar.log_probability(document)

    def entropy(self) -> float | None:
        return self.grammar.entropy()


class FileSource(Source):
    """Documents in files on this machine."""

    def __init__(self, config: DataConfig, paths: dict[str, list[Path]]):
        self.config = config
        self.paths = paths
        self.splits = list(paths)

    def identity(self) -> Any:
        return {
            split: [[str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
            for split, files in self.paths.items()
        }

    def pieces(self, split: str) -> Iterator[Piece]:
        for path in self.paths[split]:
            yield from readers.read_documents(path, self.config)


class HubSource(Source):
    """A data set of the Hugging Face hub, streamed once into files of our own.

    The files under CORPUS_ROOT/raw keep the text, so that another tokenizer or split needs no
    network again. `data.hub` may also be a folder that holds such a data set.
    """

    def __init__(self, config: DataConfig, corpus_root: Path):
        if not config.hub:
            raise UserError("data.hub=null: name a data set, as in data.hub=roneneldan/TinyStories")
        self.config = config
        folder = Path(config.hub)
        self.local = folder.is_dir()
        key = json.dumps(self.identity()).encode()
        name = f"{folder.name}-{hashlib.sha256(key).hexdigest()[:12]}"
        self.folder = corpus_root / "raw" / name
        self.fetched: FileSource | None = None

    def identity(self) -> Any:
        config = self.config
        limits = [config.max_samples, config.max_tokens, config.text_column]
        if not self.local:
            return ["hub", config.hub, config.hub_config, *limits]
        files = sorted(path for path in Path(config.hub).rglob("*") if path.is_file())
        stats = [[str(path.resolve()), path.stat().st_mtime_ns] for path in files]
        return ["folder", stats, config.hub_config, *limits]

    @property
    def splits(self) -> list[str]:  # type: ignore[override]
        return self.files().splits

    def pieces(self, split: str) -> Iterator[Piece]:
        return self.files().pieces(split)

    def files(self) -> FileSource:
        """The data set as files, fetched if they are not there yet."""
        if self.fetched is None:
            if not self.folder.is_dir():
                self.fetch()
            found = {path.stem: [path] for path in sorted(self.folder.glob("*.jsonl"))}
            self.fetched = FileSource(DataConfig(), found)
        return self.fetched

    def fetch(self) -> None:
        """Streams the splits into a temporary folder that is renamed when complete."""
        if not self.local:
            require_network(self.config.hub)
        import datasets

        datasets.disable_progress_bars()
        with atomic_folder(self.folder) as building:
            try:
                splits = datasets.get_dataset_split_names(self.config.hub, self.config.hub_config)
                if "train" not in splits:
                    raise UserError(
                        f"data.hub={self.config.hub}: has no train split; there are: "
                        f"{', '.join(splits)}"
                    )
                for ours, theirs in (("train", "train"), ("valid", "validation")):
                    if theirs in splits:
                        self.write(ours, theirs, building / f"{ours}.jsonl")
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                reason = (str(error).splitlines() or [repr(error)])[0]
                raise UserError(
                    f"data.hub={self.config.hub}: cannot be fetched ({reason}); {LOCAL_WAY}"
                ) from None

    def write(self, ours: str, theirs: str, path: Path) -> None:
        import datasets

        rows = datasets.load_dataset(
            self.config.hub, self.config.hub_config, split=theirs, streaming=True
        )
        column = self.config.text_column or "text"
        most_rows = max_tokens = math.inf
        if ours == "train":  # a validation split stays whole, so that runs can be compared
            most_rows = self.config.max_samples or math.inf
            max_tokens = self.config.max_tokens or math.inf
        tokenizer, tokens = GPT2Tokenizer(), 0
        with path.open("w") as file:
            for count, row in enumerate(rows):
                if count >= most_rows or tokens >= max_tokens:
                    break
                text = readers.extract_text(row, f"row {count + 1}", Path(self.config.hub), column)
                file.write(json.dumps({"text": text}) + "\n")
                if max_tokens < math.inf:
                    tokens += len(tokenizer.encode(text)) + 1


LOCAL_WAY = (
    "with a file of yours: data.path=FILE (and data.valid_path=FILE); offline: data=toy_stories"
)


def require_network(hub: str, key: str = "data.hub", local_way: str = LOCAL_WAY) -> None:
    """Raises UserError at once where the hub is out of reach, before any library's retries."""
    import urllib.error
    import urllib.request

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    reason = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") == "1" else None
    try:
        if reason is None:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5)
    except urllib.error.HTTPError:
        return  # it answered
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", error))
    if reason:
        raise UserError(f"{key}={hub}: no way to {endpoint} ({reason}); {local_way}")


def make_source(config: DataConfig, seed: int, corpus_root: Path) -> Source:
    """The source that the configuration names; `data.path` goes before `data.source`."""
    table = {
        "toy_stories": lambda: ToySource(config, seed),
        "hub": lambda: HubSource(config, corpus_root),
    }
    make = resolve_choice("data.source", config.source, {**table, "text": None})
    if config.valid_path is not None and config.path is None:
        raise UserError("data.valid_path: needs data.path, the training documents, beside it")
    if config.path is not None:
        paths = {"train": readers.find_files("data.path", config.path)}
        if config.valid_path is not None:
            paths["valid"] = readers.find_files("data.valid_path", config.valid_path)
        return FileSource(config, paths)
    if make is None:
        raise UserError("data.path=null: name your text, as in data=text data.path=my_novel.txt")
    return make()
