"""Records to finetune on: how they are read, dealt to splits, and put into rows."""

import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data import records
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.prompt_templates import alpaca_template
from gptlab.data.record_splits import normalize_record, split_records
from gptlab.data.records import Instruction, Message
from gptlab.data.sequences import IGNORE_INDEX, make_sequences
from gptlab.data.tokenizer import decode
from gptlab.data.toy import instructions, spam
from gptlab.utils.errors import UserError

SPAM = DataConfig(task="classification", source="toy_spam", split=0.1, test_split=0.2)
TASKS = DataConfig(
    task="instructions", source="toy_instructions", template="plain", split=0.05, test_split=0.1
)


def opened(data: DataConfig, root: Path, tokenizer: str = "words") -> Corpus:
    return open_corpus(data, TokenizerConfig(name=tokenizer), 1, str(root))


def some_messages() -> list[Message]:
    ham = [Message(f"see you at {place} {word}", "ham") for place in "abcdefghij" for word in "xyz"]
    spam = [Message(f"win {word} now, {place}", "spam") for place in "abcdef" for word in "xy"]
    return ham + spam


def test_equal_texts_stand_on_one_side_and_classes_are_balanced() -> None:
    doubled = [Message(r.text.upper().replace(" ", "  "), r.label) for r in some_messages()]
    numbered = [Message(f"call 0800{n}", "spam") for n in range(5)]
    splits, words = split_records([*some_messages(), *doubled, *numbered], SPAM, seed=3)
    contents = {name: {normalize_record(r) for r in split} for name, split in splits.items()}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not contents[one] & contents[other]
    counts = Counter(record.label for split in splits.values() for record in split)
    assert set(counts) == {"ham", "spam"} and set(counts.values()) <= {28, 29}  # pairs are not torn
    assert "left out to balance" in words
    everyone, _ = split_records(some_messages(), DataConfig(balance=False, split=0.1), seed=3)
    assert sum(map(len, everyone.values())) == len(some_messages()) and "test" not in everyone


def test_splits_have_their_shares_whatever_the_order_of_the_file() -> None:
    made = [Message(*spam.write(number)) for number in range(2000)]
    splits, _ = split_records(made, SPAM, seed=3)
    total = sum(map(len, splits.values()))
    assert len(splits["test"]) / total == pytest.approx(0.2, abs=0.02)
    assert len(splits["valid"]) / total == pytest.approx(0.1, abs=0.02)
    backwards, _ = split_records(made[::-1], SPAM, seed=3)
    assert {n: {r.text for r in s} for n, s in splits.items()} == {
        n: {r.text for r in s} for n, s in backwards.items()
    }
    other, _ = split_records(made, SPAM, seed=4)
    assert {r.text for r in other["test"]} != {r.text for r in splits["test"]}


def test_a_text_of_two_classes_is_left_out() -> None:
    splits, words = split_records(
        [*some_messages(), Message("see you at A  x", "spam")], SPAM, seed=1
    )
    assert "2 left out whose equal texts are of several classes" in words
    assert "see you at a x" not in {normalize_record(r) for split in splits.values() for r in split}


def test_the_embedded_sets_are_what_they_say() -> None:
    spam = [spam.write(number) for number in range(500)]
    assert spam == [spam.write(number) for number in range(500)]
    share = sum(label == "spam" for _, label in spam) / 500
    assert share == pytest.approx(0.3, abs=0.06) and "{" not in "".join(t for t, _ in spam)
    # No single word gives the class away in all of them.
    for word in ("free", "win", "call", "prize", "friend"):
        assert {label for text, label in spam if word in text.lower()} == {"ham", "spam"}
    answers = {}
    for number in range(2000):
        instruction, shown, answer = instructions.write(number)
        assert answers.setdefault((instruction, shown), answer) == answer != ""


def test_a_message_has_one_target_at_its_last_token_and_never_at_padding(tmp_path: Path) -> None:
    for eot_first in (False, True):
        data = DataConfig(**{**vars(SPAM), "eot_first": eot_first})
        corpus = opened(data, tmp_path)
        windows = make_sequences(corpus, "train", 64, data, seed=5)
        indices = np.arange(7)
        source, target = windows.read(indices)
        assert windows.real_tokens(indices) == 7 == (target != IGNORE_INDEX).sum()
        classes = corpus.classes
        assert classes == ["ham", "spam"]
        labels = {spam.write(n)[0]: spam.write(n)[1] for n in range(2000)}
        longest = 0
        for row, wanted in zip(source, target, strict=True):
            (last,) = (wanted != IGNORE_INDEX).nonzero().flatten().tolist()
            text = decode(corpus.tokenizer, row[: last + 1].tolist())
            assert labels[text] == classes[wanted[last]]
            assert (row[last + 1 :] == corpus.tokenizer.eot).all()
            longest = max(longest, last + 1)
        assert source.shape[1] == longest  # no column that is all padding


def test_a_long_message_is_cut_and_keeps_its_target(tmp_path: Path) -> None:
    windows = make_sequences(opened(SPAM, tmp_path), "train", 5, SPAM, seed=5)
    source, target = windows.read(np.arange(4))
    assert source.shape == (4, 5)
    assert (target[:, -1] != IGNORE_INDEX).all() and (target[:, :-1] == IGNORE_INDEX).all()


@pytest.mark.parametrize("eot_first", [False, True])
def test_only_the_response_and_its_end_are_learnt(tmp_path: Path, eot_first: bool) -> None:
    data = DataConfig(**{**vars(TASKS), "eot_first": eot_first})
    corpus = opened(data, tmp_path)
    eot = corpus.tokenizer.eot
    windows = make_sequences(corpus, "train", 64, data, seed=5)
    source, target = windows.read(np.arange(6))
    made = {}
    for number in range(2000):
        asked, shown, answer = instructions.write(number)
        made[f"{asked}\n{shown}\n= " if shown else f"{asked}\n= "] = answer
    for row, wanted in zip(source.tolist(), target.tolist(), strict=True):
        learnt = [token for token in wanted if token != IGNORE_INDEX]
        begin = next(place for place, token in enumerate(wanted) if token != IGNORE_INDEX)
        assert learnt[-1] == eot and eot not in learnt[:-1]
        prompt = decode(corpus.tokenizer, row[: begin + 1])
        assert made[prompt] == decode(corpus.tokenizer, learnt)
    assert windows.real_tokens(np.arange(6)) == (target != IGNORE_INDEX).sum()
    everything = DataConfig(**{**vars(data), "loss_on": "all"})
    more = make_sequences(corpus, "train", 64, everything, seed=5)
    _, whole = more.read(np.arange(6))
    assert (
        more.real_tokens(np.arange(6))
        == (whole != IGNORE_INDEX).sum()
        > (target != IGNORE_INDEX).sum()
    )
    assert (whole[:, 0] != IGNORE_INDEX).all()


def test_the_alpaca_template_is_the_published_one() -> None:
    assert alpaca_template("Name a fruit.", "red") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nName a fruit.\n\n### Input:\nred\n\n"
        "### Response:\n"
    )
    assert "### Input" not in alpaca_template("Name a fruit.")


def test_lines_are_taken_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "sms.tsv"
    path.write_text('ham\tShe said "no\nspam\t&lt;#&gt; for you\n\nham\t he\tsaid \n')
    read = records.read_records(path, Message)
    texts = ['She said "no', "&lt;#&gt; for you", "he\tsaid"]
    assert [(r.label, r.text) for r in read] == list(
        zip(["ham", "spam", "ham"], texts, strict=True)
    )


def test_instructions_come_from_json(tmp_path: Path) -> None:
    rows = [{"instruction": "Say hi.", "output": "hi"}, {"instruction": "a", "input": "b"}]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(rows[:1]))
    assert records.read_records(path, Instruction) == [Instruction("Say hi.", "", "hi")]
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match="row 2 must have the texts instruction, input, output"):
        records.read_records(path, Instruction)


def test_the_official_messages_are_fetched_once_and_checked(tmp_path, monkeypatch) -> None:
    archive = tmp_path / "sms.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            "SMSSpamCollection", "".join(f"{r.label}\t{r.text}\n" for r in some_messages())
        )
    monkeypatch.setattr(records, "SMS", archive.as_uri())
    data = DataConfig(**{**vars(SPAM), "source": "sms_spam"})
    with pytest.raises(UserError, match="not the official file"):
        opened(data, tmp_path / "c")
    monkeypatch.setattr(records, "SMS_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    corpus = opened(data, tmp_path / "c")
    assert sum(split.documents for split in corpus.splits.values()) == 24
    archive.unlink()
    (tmp_path / "c" / corpus.folder.name / "meta.json").unlink()
    assert opened(data, tmp_path / "c").meta["classes"] == ["ham", "spam"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("ham hello\n", "line 1 is not a class, a tab and a text"),
        ("ham\thello there\nham\tyou\n", "of 2 records all of class 'ham'"),
        ("ham\thello\nspam\twin\n", "'ham' has the fewest records, 1"),
    ],
)
def test_a_wrong_file_is_one_line(command, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "my.tsv").write_text(content)
    result = command("train", "data=sms_spam", "tokenizer=words", "data.path=my.tsv")
    assert result.code == 2 and words in result.err and result.err.count("\n") == 1, result.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "corpora"] == ["my.tsv"]


def test_a_source_of_another_task_is_refused(command) -> None:
    result = command("train", "data=toy_spam", "data.task=instructions")
    assert result.code == 2 and "holds nothing for data.task=instructions" in result.err


def test_a_large_group_of_equal_texts_is_trained_on() -> None:
    many = [Message(f"win 1{number:05}", "spam") for number in range(60)]
    for seed in range(5):
        splits, _ = split_records(
            [*some_messages(), *many], DataConfig(test_split=0.2, balance=False), seed
        )
        labels = Counter((name, r.label) for name, split in splits.items() for r in split)
        assert labels["train", "spam"] > 0.6 * 72
        assert labels["valid", "ham"] == 3 and labels["test", "ham"] == 6


def test_instructions_that_differ_in_numbers_are_others(tmp_path: Path) -> None:
    sums = [Instruction("Add up.", f"{a} and {b}", str(a + b)) for a in range(9) for b in range(9)]
    splits, _ = split_records(
        sums, DataConfig(task="instructions", split=0.1, test_split=0.1), seed=1
    )
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [65, 8, 8]
    stars = [Message(f"I give it {n} stars", "good" if n > 5 else "bad") for n in range(1, 10)]
    splits, words = split_records(stars, DataConfig(balance=False, split=0.2), seed=1)
    assert sum(map(len, splits.values())) == 9 and "several classes" not in words
