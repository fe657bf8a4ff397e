"""Small tasks with their answers, as many as asked for: made up, no download.

Each has one right answer, so that answers can be counted as right or wrong.
"""

import random

NOUNS = "cat dog fox bear bird frog goat duck king girl boy hen cow pig owl ant".split()
COLOURS = "red blue green white black brown yellow grey".split()
PLACES = "garden forest kitchen river school market bridge station".split()
VERBS = {
    **{"jump": "jumped", "walk": "walked", "play": "played", "cook": "cooked", "wait": "waited"},
    **{"run": "ran", "sing": "sang", "sleep": "slept", "eat": "ate", "swim": "swam"},
}
OPPOSITES = {
    **{"hot": "cold", "big": "small", "old": "new", "up": "down", "wet": "dry", "fast": "slow"},
    **{"open": "closed", "day": "night", "early": "late", "happy": "sad", "high": "low"},
}


def past(draws: random.Random) -> tuple[str, str, str]:
    noun, verb, place = draws.choice(NOUNS), draws.choice([*VERBS]), draws.choice(PLACES)
    shown = f"The {noun}s {verb} in the {place}."
    return "Write the sentence in the past tense.", shown, shown.replace(verb, VERBS[verb])


def opposite(draws: random.Random) -> tuple[str, str, str]:
    word = draws.choice([*OPPOSITES])
    noun, place = draws.choice(NOUNS), draws.choice(PLACES)
    asked = f"Replace '{word}' by its opposite."
    shown = f"The {noun} in the {place} says {word}."
    return asked, shown, shown.replace(f"says {word}", f"says {OPPOSITES[word]}")


def colour(draws: random.Random) -> tuple[str, str, str]:
    noun, hue, place = draws.choice(NOUNS), draws.choice(COLOURS), draws.choice(PLACES)
    return f"What colour is the {noun}?", f"The {hue} {noun} is in the {place}.", f"{hue}"


def where(draws: random.Random) -> tuple[str, str, str]:
    noun, hue, place = draws.choice(NOUNS), draws.choice(COLOURS), draws.choice(PLACES)
    return f"Where is the {noun}?", f"The {hue} {noun} is in the {place}.", f"in the {place}"


def swap(draws: random.Random) -> tuple[str, str, str]:
    first, second = draws.sample(NOUNS, 2)
    return "Swap the two words.", f"{first} and {second}", f"{second} and {first}"


def many(draws: random.Random) -> tuple[str, str, str]:
    noun, hue = draws.choice(NOUNS), draws.choice(COLOURS)
    return f"Write '{hue} {noun}' for more than one.", "", f"{hue} {noun}s"


TASKS = (past, opposite, colour, where, swap, many)


def write(number: int) -> tuple[str, str, str]:
    """Instruction, input and output of task `number`: always the same."""
    draws = random.Random(f"toy instructions {number}")
    return draws.choice(TASKS)(draws)
