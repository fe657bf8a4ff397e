"""Mend arguments as people type them: short keys, `lr = 1e-3`, `'prompt=hi'`, `--max-steps 3`.

What has one meaning is taken; anything else ends in one line that says what to type.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

from gptlab.config.keys import CONF_DIR, OPEN_KEYS, KeyInfo, config_groups, group_choices, keys_of
from gptlab.config.renamed_keys import NAMES_ELSEWHERE, RENAMED_KEYS
from gptlab.config.schema import SCHEMAS
from gptlab.config.sweeps import MULTIRUN_FLAGS
from gptlab.utils.errors import UserError, did_you_mean
from gptlab.utils.program import command_line

# Hydra's own options, and those of them that a value follows.
WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--info", "-i", "--experimental-rerun"}
WITH_VALUE |= {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}
FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", *MULTIRUN_FLAGS}
COMPLETION = {"--shell-completion", "-sc"}
SPECIAL_GROUPS = ("hellaswag.", "judge.")  # a short key means these only if it means nothing else
YES, NO = ("true", "yes", "on", "1", "y"), ("false", "no", "off", "0", "n")


def mend_arguments(typed: list[str], command: str) -> list[str]:
    """Return a command's arguments with full keys and plain values.

    Raises UserError for what is neither an option nor KEY=VALUE.
    """
    if COMPLETION & set(typed):
        return typed
    is_sweep = bool(MULTIRUN_FLAGS & set(typed))
    arguments = iter(join_around_equals(unquote(typed)))
    mended: list[str] = []
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if name in FLAGS | WITH_VALUE:
            mended.append(argument)
            if name in WITH_VALUE and not equals:
                mended += [value for value in [next(arguments, None)] if value is not None]
        elif argument.startswith("-"):
            raise UserError(explain_option(argument, next(arguments, ""), command))
        elif equals or argument.startswith("~"):
            mended.append(mend_override(argument, command, is_sweep))
        else:
            raise UserError(explain_word(argument, mended, command))
    return mended


def unquote(typed: Iterable[str]) -> Iterator[str]:
    """Remove the single quotes around `'prompt=a b'`, which cmd on Windows passes on, in parts."""
    words = iter(typed)
    for word in words:
        if re.match(r"'[\w.+-]+=", word):
            parts = [word]
            while not parts[-1].endswith("'") and (following := next(words, None)) is not None:
                parts.append(following)
            joined = " ".join(parts)
            yield joined[1:-1] if joined.endswith("'") else joined[1:]
        else:
            yield word


def join_around_equals(words: Iterable[str]) -> Iterator[str]:
    """Join `lr = 3`, `lr= 3` and `lr =3`, which a shell splits."""
    previous: str | None = None
    for word in words:
        if previous is not None and (
            (word.startswith("=") and "=" not in previous and previous[:1] != "-")
            or (previous.find("=") == len(previous) - 1 and "=" not in word and word[:1] != "-")
        ):
            previous += word
            continue
        if previous is not None:
            yield previous
        previous = word
    if previous is not None:
        yield previous


def mend_override(argument: str, command: str, is_sweep: bool = False) -> str:
    """Complete the key of KEY=VALUE, and write the value as Hydra takes it."""
    name, _, value = argument.partition("=")
    if not name.strip():
        raise UserError(f"{argument}: the key before = is missing")
    if re.match(r"[+~]|hydra\b", name) or re.search("[@/]", name):
        return argument
    name = complete_key(name.strip(), command)
    info = keys_of(SCHEMAS[command]).get(name)
    if info is None:
        return f"{name}={mend_choice(name, value.strip(), command)}"
    if info.free_text or re.search(r"list|dict|Any", info.type):
        return f"{name}={value}"
    value = value.strip()
    if is_sweep and not re.search(r"[\[({'\"]", value):
        return f"{name}={','.join(mend_value(info, each) for each in value.split(','))}"
    return f"{name}={mend_value(info, value)}"


def complete_key(name: str, command: str) -> str:
    """Return the full name of a key given by its last part; unknown names are returned unchanged.

    Raises UserError if several keys end with it.
    """
    known = [*keys_of(SCHEMAS[command]), *config_groups(command)]
    plain = name.lower().replace("-", "_")
    if name in known or name in RENAMED_KEYS or name.partition(".")[0] in OPEN_KEYS:
        return name
    if plain in known:
        return plain
    matches = [key for key in known if key.endswith(f".{plain}") and "." not in plain]
    matches = [key for key in matches if not key.startswith(SPECIAL_GROUPS)] or matches
    if (CONF_DIR / plain).is_dir():  # a group of other commands
        return name
    if len(matches) > 1:
        raise UserError(f"{name}: which one? Type {' or '.join(matches)}")
    return matches[0] if matches else name


def mend_choice(group: str, value: str, command: str) -> str:
    """Return a group's choice in the right case: `model=Toy`, `sampling=top-k`."""
    if group not in config_groups(command):
        return value
    if not value:
        choices = ", ".join(group_choices(group))
        raise UserError(f"{group}=: its value is missing; choose from {choices}")
    return respell(value, group_choices(group))


def respell(value: str, choices: Iterable[str]) -> str:
    plain = value.lower().replace("-", "_")
    return next((c for c in choices if c.lower().replace("-", "_") == plain), value)


def mend_value(info: KeyInfo, value: str) -> str:
    """Write a number, bool or choice as Hydra takes it; raise UserError if one is missing."""
    kind, optional = info.type.partition(" | ")[0], info.type.endswith("None")
    value = value.strip()
    if not value:
        raise UserError(f"{info.name}=: its value is missing, as in {example(info)}")
    if optional and value.lower() in ("none", "null"):
        return "null"
    if kind == "bool":
        return "true" if value.lower() in YES else "false" if value.lower() in NO else value
    if kind == "str":
        return respell(value, info.choices) if value not in info.choices else value
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", value) and kind == "int":
        raise UserError(comma_line(info.name, value, value.replace(",", "")))
    if kind == "float" and re.fullmatch(r"[+-]?\d*,\d+(e[+-]?\d+)?", value, re.IGNORECASE):
        raise UserError(comma_line(info.name, value, value.replace(",", ".")))
    if kind == "int" and re.fullmatch(r"[+-]?[\d.]+(e\+?\d+)?", value, re.IGNORECASE):
        try:
            number = float(value)
        except ValueError:
            return value
        return str(int(number)) if number.is_integer() and not value.isdigit() else value
    return value


def comma_line(name: str, value: str, number: str) -> str:
    return f"{name}={value}: write {name}={number}, or add -m to sweep over several values"


def example(info: KeyInfo) -> str:
    """Return `model.n_layer=4`, or `trainer.max_steps=VALUE` for a key without a default."""
    default = str(info.default).lower() if isinstance(info.default, bool) else info.default
    return f"{info.name}={'VALUE' if default in (None, '') else default}"


def explain_option(argument: str, following: str, command: str) -> str:
    """Describe `--max-steps 3`, as other tools take it: the line names the key."""
    name, equals, value = argument.partition("=")
    key = complete_key(name.strip("-"), command)
    known = [*keys_of(SCHEMAS[command]), *config_groups(command)]
    if key not in known:
        key = NAMES_ELSEWHERE.get(key, RENAMED_KEYS.get(key, key))
    if key not in known:
        near = did_you_mean(name, sorted(FLAGS | WITH_VALUE)) or suggest_key(key, command)
        return f"{name}: unknown option; settings are written KEY=VALUE{near}"
    if not equals:
        value = following if following and following[0] != "-" and "=" not in following else "VALUE"
    value = f'"{value}"' if " " in value else value
    return f"{argument}: settings are written without dashes: {key}={value}"


def explain_word(word: str, before: list[str], command: str) -> str:
    """Describe a word that is neither an option nor KEY=VALUE."""
    keys, groups = keys_of(SCHEMAS[command]), config_groups(command)
    last, _, start = before[-1].partition("=") if before else ("", "", "")
    chosen = [f"{group}={word}" for group in groups if word in group_choices(group)]
    chosen += [f"{key}={word}" for key in ("suite",) if key in keys and word in keys[key].choices]
    if chosen:
        return f"{word}: write {' or '.join(chosen)}"
    if (key := complete_key(word, command)) in (*keys, *groups):
        return f"{word}: write {example(keys[key]) if key in keys else f'{key}=CHOICE'}"
    if last in keys and keys[last].free_text:
        return f'{word}: text with spaces needs quotes: {last}="{start} {word} …"'
    if "prompt" in keys and command == "generate":
        return f'{word}: write prompt="{word}"'
    see = f" (see `{command_line(command, '--help')}`)"
    return f"{word}: settings are written KEY=VALUE{suggest_key(word, command) or see}"


def suggest_key(name: str, command: str) -> str:
    """Return `; did you mean 'optim.lr'?` for the known key whose last part is most similar."""
    known = [*keys_of(SCHEMAS[command]), *config_groups(command)]
    last = name.rpartition(".")[2].lower().replace("-", "_")
    if (other := NAMES_ELSEWHERE.get(last)) in known:
        return f"; did you mean '{other}'?"

    def similarity(key: str) -> tuple[float, float]:
        parts = SequenceMatcher(None, last, key.rpartition(".")[2]).ratio()
        return parts, SequenceMatcher(None, name, key).ratio()

    best = max(known, key=similarity)
    return f"; did you mean '{best}'?" if similarity(best)[0] >= 0.6 else ""
