"""Generate short messages, some of them spam.

Spam and other messages ("ham") share most of their words (win, free, call, prize, friend), so that
a model has to read more than single words.
"""

import random
import re

WORDS = {
    "name": "Ann Ben Clara Dan Ella Finn Grace Hugo Ida Jack Kate Leo Mia Ned Olga Paul".split(),
    "kin": "mum dad my_sister my_brother grandma the_coach the_teacher my_friend".split(),
    "thing": "phone car bike camera laptop holiday watch ticket game jacket sofa piano".split(),
    "place": "school home work town the_station the_park the_cinema the_shop".split(),
    "day": "today tonight tomorrow on_Monday on_Friday at_noon after_work this_weekend".split(),
    "sum": "50 100 200 500 750 1000 2000 5000".split(),
    "meal": "lunch dinner tea coffee cake pizza soup breakfast".split(),
    "number": "08001 09061 08712 80082 87077 62468 69988 85023".split(),
}

HAM = """Are you free to call me {day}?
I will be at {place} {day}, see you there
Sorry, I can't talk now, I will call you {day}
Did you win the game {day}? {kin} says you did
{name} lost the {thing} at {place}, please call if you find it
Can you bring {meal} {day}? {kin} is hungry
The {thing} is not free, it costs {sum}, shall we claim it back?
{kin} won a prize at {place}, a {thing}, so happy
Congratulations on your new {thing}, {name}!
Text me when you get to {place}
I owe you {sum} for the {thing}, I will pay you {day}
Your {meal} is on the table, {kin} and I are out {day}
Reply when you can, {kin} is waiting at {place}
No offer on the {thing} yet, {name} will try again {day}
Urgent: {kin} forgot the keys, are you at {place}?
Just read your message, yes, {meal} {day} is fine""".splitlines()

SPAM = """You have won a {thing}! Call {number} to claim your prize
FREE {thing} for you, {name}: text WIN to {number}
Urgent! Your {sum} pound prize is waiting, call {number} {day}
Congratulations {name}, you were chosen for a {thing}, reply YES to claim
Claim your free {meal} for two at {place}: text EAT to {number}
Your friend {name} sent you a {thing}, call {number} to see it
Win {sum} {day}! Reply to {number}, costs 150 a message
Last offer: a new {thing} for {sum}, call {number} now
Your number won {sum} {day}, this is no game, call {number}
Sorry we missed your call, your {thing} is free if you text {number}
Are you free {day}? Singles at {place} want to talk, call {number}
{name}, you owe nothing: claim {sum} back from {place} on {number}
Your {thing} bill is ready, to win it back text PAY to {number}
Reply with your name to get a {thing} and {sum} in cash""".splitlines()

ENDINGS = ["", "", "", " Thanks", " Bye", " x", ".", "!", " Don't miss it", " See you", " ok?"]

# A message may quote one of the other class: only both parts together decide the class.
QUOTE_SPAM = ["{kin} got this, is it true? {other}", "{other} That was a text to {name}, funny"]
QUOTE_HAM = ["{other} Call me on {number}", "{other} New text from {name}, read it on {number}"]
QUOTE_SHARE = 0.35  # of all messages


def generate_message(index: int) -> tuple[str, str]:
    """Generate message `index`, always the same: its text, and its class `ham` or `spam`."""
    rng = random.Random(f"toy spam {index}")
    is_spam = rng.random() < 0.3
    text = rng.choice(SPAM if is_spam else HAM)
    if rng.random() < QUOTE_SHARE:
        text = rng.choice(QUOTE_HAM if is_spam else QUOTE_SPAM)
        text = text.replace("{other}", rng.choice(HAM if is_spam else SPAM))
    elif not is_spam and rng.random() < QUOTE_SHARE:
        text += " I am on {number} now"
    text = re.sub(r"\{(\w+)\}", lambda slot: rng.choice(WORDS[slot[1]]).replace("_", " "), text)
    return text[:1].upper() + text[1:] + rng.choice(ENDINGS), "spam" if is_spam else "ham"
