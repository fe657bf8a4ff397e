"""The search for verbatim spans."""

from pathlib import Path

import numpy as np
import pytest

from gptlab.evaluation import memorisation
from gptlab.evaluation.memorisation import measure_memorisation


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_spans_are_found_in_the_token_file_only_at_whole_tokens(
    tmp_path: Path, dtype: type
) -> None:
    stream = np.array([1, 256, 2, 513, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 3], dtype=dtype)
    stream.tofile(tmp_path / "train.bin")
    mapped = np.memmap(tmp_path / "train.bin", dtype=dtype, mode="r")
    across = stream.view(np.uint8)[1 : 1 + 2 * stream.itemsize].view(dtype).tolist()
    assert measure_memorisation(mapped, [across])["longest"] < 2  # its bytes occur, not its tokens
    assert measure_memorisation(mapped, [[9, 256, 2, 99, 1]])["longest"] == 2
    result = measure_memorisation(mapped, [list(range(7, 18)), [5, 6]])
    shares = {"5_grams": 1.0, "10_grams": 1.0, "20_grams": 0.0}
    assert result == {"longest": 11, "mean_longest": 5.5, **shares}


@pytest.mark.fast
def test_one_pass_finds_the_same_ngrams_as_a_search_one_by_one(monkeypatch) -> None:
    monkeypatch.setattr(memorisation, "CHUNK", 7)  # n-grams cross many chunks
    random = np.random.default_rng(4)
    stream = random.integers(0, 3, size=200)
    texts = [random.integers(0, 3, size=size).tolist() for size in (25, 14, 3, 1)] + [[9, 9]]
    texts.append([*stream[50:75].tolist(), 9])

    def occurs(ngram: list[int]) -> bool:
        n = len(ngram)
        return any((stream[at : at + n] == ngram).all() for at in range(len(stream) - n + 1))

    flags_by_n = memorisation.find_ngrams(stream, texts)
    assert len(flags_by_n) == 26
    for n, by_text in enumerate(flags_by_n, 1):
        for text, flags in zip(texts, by_text, strict=True):
            expected = [occurs(text[at : at + n]) for at in range(len(text) - n + 1)]
            assert flags.tolist() == expected
