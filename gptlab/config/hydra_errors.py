"""Explain errors of Hydra and OmegaConf in one line."""

import re

from gptlab.config.keys import config_groups, group_choices, keys_of
from gptlab.config.renamed_keys import RENAMED_KEYS, SYNONYMS
from gptlab.config.schema import SCHEMAS
from gptlab.config.spelling import suggest_key
from gptlab.utils.errors import invalid_choice
from gptlab.utils.program import command_line

OPEN_GROUPS = ("trainer.extra.", "callbacks.", "logger.")  # accept new keys with a plus
TYPE_NAMES = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}


def explain_hydra_error(error: Exception, command_name: str) -> str:
    """Describe an error of Hydra or OmegaConf in one line: the key, the value, what is allowed."""
    if override := getattr(error, "override", None):
        reason = str(error).splitlines()[0]
        return f"{override}: cannot be read as key=value ({reason}); quote its special characters"
    # Hydra wraps OmegaConf's error, which has the full name of the key.
    for cause in (error.__cause__, error.__context__, error):
        if line := explain_message(str(cause).strip() if cause else "", command_name):
            return line
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
    return f"{first} (see `{command_line(command_name, '--help')}`)"


def explain_message(text: str, command_name: str) -> str | None:
    """Describe one message of Hydra or OmegaConf; None for a message not known here."""
    full = re.search(r"full_key: (\S+)", text)
    key = full[1] if full else ""
    if match := re.search(r"Could not (?:find|load) '(\w+)/([^']*)'", text):
        group, choice = match.groups()
        return invalid_choice(group, choice, group_choices(group))
    if match := re.search(r"Could not override '([^']+)'", text):
        return unknown_key(match[1], command_name)
    if match := re.search(r"Key '([^']+)' (?:is )?not in", text):
        key = key or match[1]
        if key.startswith(OPEN_GROUPS):
            return f"{key}: not set yet; add it with a plus: +{key}=VALUE"
        return unknown_key(key, command_name)
    if match := re.search(r"Value '(.*)' (?:of type .* to (\w+)|is not a valid (bool))", text):
        kind = match[2] or match[3]
        return f"{key or 'a key'}={match[1]} must be {TYPE_NAMES.get(kind, 'text')}"
    if "is not a ListConfig" in text and key:
        return f"{key} must be a list, as in {key}=a,b"
    if "is not Optional" in text and key:
        return f"{key}=null must be a value other than null"
    if text.startswith("Ambiguous value for argument"):
        return f"{text.split(chr(39))[1]}: add -m to sweep over several values, or quote one text"
    if "Config group override must be" in text:
        return "a group takes the name of one of its choices (see --help), not a number or null"
    return f"{key}: {text.splitlines()[0]}" if key else None


def unknown_key(name: str, command_name: str) -> str:
    """Describe an unknown key; suggest the one with the most similar last part."""
    known = [*keys_of(SCHEMAS[command_name]), *config_groups(command_name)]
    if (present := RENAMED_KEYS.get(name)) in known:
        return f"{name}: is now {present}"
    if (synonym := SYNONYMS.get(name)) in known:
        return f"{name}: unknown key; did you mean '{synonym}'?"
    return f"{name}: unknown key{suggest_key(name, command_name)}"
