"""Records to finetune on: how they are read, split, and cut into sequences."""

import hashlib
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from gptlab.config.schema import DataConfig, TokenizerConfig
from gptlab.data import records
from gptlab.data.build import open_corpus
from gptlab.data.corpus import Corpus
from gptlab.data.prompt_templates import alpaca_template, plain_template
from gptlab.data.records import Instruction, Message
from gptlab.data.sequences import IGNORE_INDEX, make_sequences
from gptlab.data.splits import normalize_record, split_records
from gptlab.data.tokenizer import decode
from gptlab.data.toy.instructions import generate_instruction
from gptlab.data.toy.spam import generate_message
from gptlab.utils.errors import UserError

SPAM = DataConfig(task="classification", source="toy_spam", split=0.1, test_split=0.2)
TASKS = DataConfig(
    task="instructions", source="toy_instructions", template="plain", split=0.05, test_split=0.1
)


@pytest.fixture(scope="module")
def corpus_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this module's tests share the corpora of SPAM and TASKS."""
    return tmp_path_factory.mktemp("corpora")


def open_records(data: DataConfig, root: Path, tokenizer: str = "words") -> Corpus:
    return open_corpus(data, TokenizerConfig(name=tokenizer), 1, str(root))


def make_messages() -> list[Message]:
    ham = [Message(f"see you at {place} {word}", "ham") for place in "abcdefghij" for word in "xyz"]
    spam = [Message(f"win {word} now, {place}", "spam") for place in "abcdef" for word in "xy"]
    return ham + spam


@pytest.mark.fast
def test_equal_texts_are_in_one_split_and_classes_are_balanced() -> None:
    doubled = [Message(r.text.upper().replace(" ", "  "), r.label) for r in make_messages()]
    numbered = [Message(f"call 0800{n}", "spam") for n in range(5)]
    splits, description = split_records([*make_messages(), *doubled, *numbered], SPAM, seed=3)
    contents = {name: {normalize_record(r) for r in split} for name, split in splits.items()}
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not contents[one] & contents[other]
    counts = Counter(record.label for split in splits.values() for record in split)
    assert set(counts) == {"ham", "spam"} and set(counts.values()) <= {
        28,
        29,
    }
    assert "left out to balance" in description
    everyone, _ = split_records(
        make_messages(), DataConfig(balance_classes=False, split=0.1), seed=3
    )
    assert sum(map(len, everyone.values())) == len(make_messages()) and "test" not in everyone


def test_splits_have_their_shares_for_any_order_of_the_file() -> None:
    made = [Message(*generate_message(number)) for number in range(2000)]
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


def test_texts_with_several_classes_are_left_out() -> None:
    splits, description = split_records(
        [*make_messages(), Message("see you at A  x", "spam")], SPAM, seed=1
    )
    assert "2 left out because equal texts have different classes" in description
    assert "see you at a x" not in {normalize_record(r) for split in splits.values() for r in split}


def test_toy_records_are_repeatable_and_not_trivial() -> None:
    messages = [generate_message(index) for index in range(500)]
    assert messages == [generate_message(index) for index in range(500)]
    share = sum(label == "spam" for _, label in messages) / 500
    assert share == pytest.approx(0.3, abs=0.06) and "{" not in "".join(t for t, _ in messages)
    # No single word decides the class.
    for word in ("free", "win", "call", "prize", "friend"):
        assert {label for text, label in messages if word in text.lower()} == {"ham", "spam"}
    outputs = {}
    for number in range(2000):
        instruction, input, output = generate_instruction(number)
        assert outputs.setdefault((instruction, input), output) == output != ""


@pytest.mark.fast
def test_a_message_has_one_target_at_its_last_token(corpus_root: Path) -> None:
    for eot_first in (False, True):
        data = DataConfig(**{**vars(SPAM), "eot_first": eot_first})
        corpus = open_records(data, corpus_root)
        sequences = make_sequences(corpus, "train", 64, data, seed=5)
        indices = np.arange(7)
        source, target = sequences.read_batch(indices)
        assert sequences.total_targets(indices) == 7 == (target != IGNORE_INDEX).sum()
        classes = corpus.classes
        assert classes == ["ham", "spam"]
        labels = {generate_message(n)[0]: generate_message(n)[1] for n in range(2000)}
        longest = 0
        for row, targets in zip(source, target, strict=True):
            (last,) = (targets != IGNORE_INDEX).nonzero().flatten().tolist()
            text = decode(corpus.tokenizer, row[: last + 1].tolist())
            assert labels[text] == classes[targets[last]]
            assert (row[last + 1 :] == corpus.tokenizer.eot).all()
            longest = max(longest, last + 1)
        assert source.shape[1] == longest  # no column that is all padding


def test_a_long_message_is_cut_but_keeps_its_target(corpus_root: Path) -> None:
    sequences = make_sequences(open_records(SPAM, corpus_root), "train", 5, SPAM, seed=5)
    source, target = sequences.read_batch(np.arange(4))
    assert source.shape == (4, 5)
    assert (target[:, -1] != IGNORE_INDEX).all() and (target[:, :-1] == IGNORE_INDEX).all()


@pytest.mark.fast
@pytest.mark.parametrize("eot_first", [False, True])
def test_only_the_response_and_its_end_of_text_are_targets(
    corpus_root: Path, eot_first: bool
) -> None:
    data = DataConfig(**{**vars(TASKS), "eot_first": eot_first})
    corpus = open_records(data, corpus_root)
    eot = corpus.tokenizer.eot
    sequences = make_sequences(corpus, "train", 64, data, seed=5)
    source, target = sequences.read_batch(np.arange(6))
    expected = {}
    for number in range(2000):
        instruction, input, output = generate_instruction(number)
        expected[plain_template(instruction, input)] = output
    for row, targets in zip(source.tolist(), target.tolist(), strict=True):
        response = [token for token in targets if token != IGNORE_INDEX]
        begin = next(place for place, token in enumerate(targets) if token != IGNORE_INDEX)
        assert response[-1] == eot and eot not in response[:-1]
        prompt = decode(corpus.tokenizer, row[: begin + 1])
        assert expected[prompt] == decode(corpus.tokenizer, response)
    assert sequences.total_targets(np.arange(6)) == (target != IGNORE_INDEX).sum()
    everything = DataConfig(**{**vars(data), "loss_on": "all"})
    whole = make_sequences(corpus, "train", 64, everything, seed=5)
    _, all_targets = whole.read_batch(np.arange(6))
    assert (
        whole.total_targets(np.arange(6))
        == (all_targets != IGNORE_INDEX).sum()
        > (target != IGNORE_INDEX).sum()
    )
    assert (all_targets[:, 0] != IGNORE_INDEX).all()


@pytest.mark.fast
def test_the_alpaca_template_is_the_published_one() -> None:
    assert alpaca_template("Name a fruit.", "red") == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nName a fruit.\n\n### Input:\nred\n\n"
        "### Response:\n"
    )
    assert "### Input" not in alpaca_template("Name a fruit.")


def read_file(path: Path, kind: type[records.Record]) -> list[records.Record]:
    task = "classification" if kind is Message else "instructions"
    return records.RecordFiles(DataConfig(task=task, path=str(path)), path.parent).read()


def test_labeled_lines_are_read_verbatim(tmp_path: Path) -> None:
    path = tmp_path / "sms.tsv"
    path.write_text(
        'ham\tShe said "no\nspam\t&lt;#&gt; for you\n\nham\t he\tsaid \n', encoding="utf-8"
    )
    read = read_file(path, Message)
    texts = ['She said "no', "&lt;#&gt; for you", "he\tsaid"]
    assert [(r.label, r.text) for r in read] == list(
        zip(["ham", "spam", "ham"], texts, strict=True)
    )


def test_instructions_are_read_from_json(tmp_path: Path) -> None:
    rows = [{"instruction": "Say hi.", "output": "hi"}, {"instruction": "a", "input": "b"}]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(rows[:1]), encoding="utf-8")
    assert read_file(path, Instruction) == [Instruction("Say hi.", "", "hi")]
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match="row 2 must have the texts instruction, input, output"):
        read_file(path, Instruction)


TABLES = {
    "a.csv": 'Category,Message\nham,"Hello, ""you"""\nspam,win\n',
    "v.csv": 'v1,v2,,,\nham,"Hello, ""you""",,,\nspam,win,,,\n',
    "a.tsv": 'text\tlabel\n"Hello, ""you"""\tham\nwin\tspam\n',
    "plain.tsv": 'ham\tHello, "you"\nspam\twin\n',
    "plain.txt": 'ham\tHello, "you"\nspam\twin\n',
    "SMSSpamCollection": 'ham\tHello, "you"\nspam\twin\n',
    "a.NDJSON": '{"sms": "Hello, \\"you\\"", "class": "ham"}\n{"sms": "win", "class": "spam"}\n',
    "lines.json": '{"text": "Hello, \\"you\\"", "label": "ham"}\n'
    '{"text": "win", "label": "spam"}\n',
}


@pytest.mark.fast
@pytest.mark.parametrize("name", TABLES)
def test_messages_are_read_from_any_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    expected = [Message('Hello, "you"', "ham"), Message("win", "spam")]
    assert read_file(tmp_path / name, Message) == expected
    (tmp_path / "readme.txt").write_text("Not a table.", encoding="utf-8")
    assert read_file(tmp_path, Message) == expected  # in a folder, the text is left out
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path in (tmp_path / name, tmp_path / "readme.txt"):
            archive.write(path, path.name)
    assert read_file(tmp_path / "all.zip", Message) == expected
    rows = [{"message": r.text, "target": r.label} for r in expected]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", Message) == expected


def test_columns_can_be_named_and_missing_fields_say_where(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,kind,note\n1,good,fine\n2,bad,poor\n3,bad,\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 2 must have .* no text and no label among: id"):
        read_file(path, Message)
    named = {"text_column": "Note", "label_column": "kind"}
    data = DataConfig(task="classification", path=str(path), **named)
    source = records.RecordFiles(data, tmp_path)
    assert source.read() == [Message("fine", "good"), Message("poor", "bad")]
    assert source.report.lines() == [
        "1 .csv file (columns note, kind)",
        f"{path}: left out 1 row without a text",
    ]
    for row, message in {
        '{"text": null, "label": "a"}': "line 2: 'text' is null, a missing text",
        '{"text": "b", "label": null}': "line 2: 'label' is null, a missing label",
        '{"text": "b", "label": ["x"]}': "line 2: 'label' is list, not text",
        '{"text": "b"}': "line 2 must have the texts text, label, but has no label among: text",
        "[]": "line 2 must have the texts",
    }.items():
        path = tmp_path / "b.jsonl"
        path.write_text(f'{{"text": "a", "label": "a"}}\n{row}\n', encoding="utf-8")
        with pytest.raises(UserError, match=message) as caught:
            read_file(path, Message)
        assert str(path) in str(caught.value)


def test_one_and_one_point_zero_are_one_class(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    labels = ["1", "1.0", 1, 1.0, '"1.5"', '"a 1.0"', "-2.00"]
    lines = [f'{{"text": "t", "label": {label}}}\n' for label in labels]
    path.write_text("".join(lines).replace(": a", ': "a'), encoding="utf-8")
    assert [r.label for r in read_file(path, Message)] == ["1"] * 4 + ["1.5", "a 1.0", "-2"]


def test_instructions_are_read_from_tables(tmp_path: Path) -> None:
    expected = [Instruction("Say hi.", "", "hi"), Instruction("Add.", "1, 2", "3")]
    path = tmp_path / "a.csv"
    path.write_text('Prompt,Context,Response\nSay hi.,,hi\nAdd.,"1, 2",3\n', encoding="utf-8")
    assert read_file(path, Instruction) == expected
    rows = [{"instruction": "Say hi.", "input": None, "output": "hi"}, vars(expected[1])]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", Instruction) == expected
    rows[1] = {"instruction": "Add.", "output": None}
    (tmp_path / "b.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"b.json: row 2: 'output' is null, a missing output"):
        read_file(tmp_path / "b.json", Instruction)


def test_sms_spam_is_downloaded_once_and_its_hash_checked(tmp_path, monkeypatch) -> None:
    archive = tmp_path / "sms.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr(
            "SMSSpamCollection", "".join(f"{r.label}\t{r.text}\n" for r in make_messages())
        )
    monkeypatch.setattr(records.SmsSpam, "URL", archive.as_uri())
    data = DataConfig(**{**vars(SPAM), "source": "sms_spam"})
    with pytest.raises(UserError, match="not the official file"):
        open_records(data, tmp_path / "c")
    monkeypatch.setattr(records.SmsSpam, "SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    corpus = open_records(data, tmp_path / "c")
    assert sum(split.documents for split in corpus.splits.values()) == 24
    archive.unlink()
    (tmp_path / "c" / corpus.folder.name / "meta.json").unlink()
    assert open_records(data, tmp_path / "c").meta["classes"] == ["ham", "spam"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ham hello\n", "line 1 must be a class, a tab and a text"),
        ("ham\thello there\nham\tyou\n", "of 2 records all have the class 'ham'"),
        ("ham\thello\nspam\twin\n", "'ham' has the fewest records, 1"),
    ],
)
def test_a_wrong_record_file_gives_a_one_line_error(
    command, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "my.tsv").write_text(content, encoding="utf-8")
    result = command("train", "data=sms_spam", "tokenizer=words", "data.path=my.tsv")
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1, result.err
    assert [path.name for path in tmp_path.iterdir() if path.name != "corpora"] == ["my.tsv"]


def test_a_source_for_another_task_is_refused(command) -> None:
    result = command("train", "data=toy_spam", "data.task=instructions")
    assert result.code == 2 and "data.source=toy_spam has no records" in result.err


def test_a_large_group_of_equal_texts_is_in_training() -> None:
    many = [Message(f"win 1{number:05}", "spam") for number in range(60)]
    for seed in range(5):
        splits, _ = split_records(
            [*make_messages(), *many], DataConfig(test_split=0.2, balance_classes=False), seed
        )
        labels = Counter((name, r.label) for name, split in splits.items() for r in split)
        assert labels["train", "spam"] > 0.6 * 72
        assert labels["valid", "ham"] == 3 and labels["test", "ham"] == 6


def test_instructions_that_differ_in_numbers_are_different() -> None:
    sums = [Instruction("Add up.", f"{a} and {b}", str(a + b)) for a in range(9) for b in range(9)]
    splits, _ = split_records(
        sums, DataConfig(task="instructions", split=0.1, test_split=0.1), seed=1
    )
    assert [len(splits[name]) for name in ("train", "valid", "test")] == [65, 8, 8]
    stars = [Message(f"I give it {n} stars", "good" if n > 5 else "bad") for n in range(1, 10)]
    splits, description = split_records(stars, DataConfig(balance_classes=False, split=0.2), seed=1)
    assert sum(map(len, splits.values())) == 9 and "different classes" not in description


def test_a_new_record_source_is_one_class_and_one_table_entry(tmp_path: Path, monkeypatch) -> None:
    class Reviews(records.RecordSource):
        tasks = ("classification",)

        def identity(self) -> str:
            return "reviews"

        def read(self) -> list[Message]:
            return [Message(f"{w} {i}", w) for w in ("good", "bad") for i in range(40)]

    monkeypatch.setitem(records.RECORD_SOURCES, "reviews", Reviews)
    corpus = open_records(DataConfig(task="classification", source="reviews"), tmp_path)
    assert corpus.classes == ["bad", "good"]
    assert set(corpus.labels("train")) == set(corpus.labels("valid")) == {0, 1}
