"""Count the files that were read and skipped, for the opening lines of a run."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from gptlab.files.formats import suffix_of

MAX_NOTES = 3
MAX_KINDS = 8


@dataclass
class ReadReport:
    """What was read from files. Reading them a second time changes nothing."""

    kinds: dict[str, str] = field(default_factory=dict)  # of each file that was read
    columns: dict[str, None] = field(default_factory=dict)  # that were read
    skipped: dict[str, str] = field(default_factory=dict)  # the kind of each file that was not
    notes: dict[str, None] = field(default_factory=dict)  # what is unusual about a file

    def add_file(self, name: str) -> None:
        self.kinds[name] = f"{suffix_of(name) or 'unnamed'} file"

    def note(self, name: str, text: str) -> None:
        self.notes[f"{name}: {text}"] = None

    def lines(self) -> list[str]:
        """Describe it: files by kind, columns, skipped files by kind, a few notes."""
        if not self.kinds:
            return []
        lines = [count_kinds(self.kinds.values())]
        if self.columns:
            lines[0] += (
                f" ({'columns' if len(self.columns) > 1 else 'column'} {', '.join(self.columns)})"
            )
        if self.skipped:
            lines[0] += f"; skipped {count_kinds(self.skipped.values())}"
        notes = list(self.notes)
        lines += notes[:MAX_NOTES]
        if len(notes) > MAX_NOTES:
            lines.append(f"{len(notes) - MAX_NOTES:,} more notes on other files")
        return lines


def count_kinds(kinds: Iterable[str]) -> str:
    """Count equal kinds: `12 .txt files, 1 PNG image`."""
    counts = Counter(kinds).most_common()
    texts = [f"{count:,} {kind}{'s' * (count > 1)}" for kind, count in counts[:MAX_KINDS]]
    rest = sum(count for _, count in counts[MAX_KINDS:])
    return ", ".join(texts) + (f" and {rest:,} others" if rest else "")
