"""Generate small instructions with responses.

Each has exactly one right response, so that responses can be scored as right or wrong.
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


def past_tense(rng: random.Random) -> tuple[str, str, str]:
    noun, verb, place = rng.choice(NOUNS), rng.choice([*VERBS]), rng.choice(PLACES)
    sentence = f"The {noun}s {verb} in the {place}."
    past = sentence.replace(verb, VERBS[verb])
    return "Write the sentence in the past tense.", sentence, past


def opposite(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice([*OPPOSITES])
    noun, place = rng.choice(NOUNS), rng.choice(PLACES)
    sentence = f"The {noun} in the {place} says {word}."
    response = sentence.replace(f"says {word}", f"says {OPPOSITES[word]}")
    return f"Replace '{word}' by its opposite.", sentence, response


def colour(rng: random.Random) -> tuple[str, str, str]:
    noun, hue, place = rng.choice(NOUNS), rng.choice(COLOURS), rng.choice(PLACES)
    return f"What colour is the {noun}?", f"The {hue} {noun} is in the {place}.", hue


def location(rng: random.Random) -> tuple[str, str, str]:
    noun, hue, place = rng.choice(NOUNS), rng.choice(COLOURS), rng.choice(PLACES)
    return f"Where is the {noun}?", f"The {hue} {noun} is in the {place}.", f"in the {place}"


def swap(rng: random.Random) -> tuple[str, str, str]:
    first, second = rng.sample(NOUNS, 2)
    return "Swap the two words.", f"{first} and {second}", f"{second} and {first}"


def plural_noun(rng: random.Random) -> tuple[str, str, str]:
    noun, hue = rng.choice(NOUNS), rng.choice(COLOURS)
    return f"Write '{hue} {noun}' for more than one.", "", f"{hue} {noun}s"


TASKS = (past_tense, opposite, colour, location, swap, plural_noun)


def generate_instruction(index: int) -> tuple[str, str, str]:
    """Generate instruction `index`, always the same: instruction, input and output."""
    rng = random.Random(f"toy instructions {index}")
    return rng.choice(TASKS)(rng)
