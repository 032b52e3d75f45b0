"""What a word is for the rules of the evaluation sets: tokens, stop words and light stems, for English and German.

The rules about shared words compare stems, which is stricter than comparing words: "flights" counts as "flight". The stemmer
only strips endings; it errs towards treating two words as one.
"""

import re
from pathlib import Path

LANGUAGES = ("en", "de")
STOP_FOLDER = Path(__file__).with_name("stop")
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
ENDINGS = {
    "en": ("ations", "ation", "ings", "ing", "ies", "ied", "ers", "er", "ed", "es", "ly", "s", "e", "y"),
    "de": ("ungen", "ung", "innen", "ern", "en", "er", "em", "es", "st", "e", "n", "s", "t"),
}
SHORTEST_STEM = 4


def tokens(text):
    """The lower-case words of a text in order; a possessive 's is dropped."""
    return [re.sub(r"['’]s?$", "", word) for word in WORD.findall(text.lower())]


def stop_words(language):
    """The committed list of words that carry no content, one a line, # starts a comment."""
    lines = (STOP_FOLDER / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines for word in line.split("#")[0].split())


STOP = {language: stop_words(language) for language in LANGUAGES}
# For turns that switch languages in the middle.
STOP_IN_ANY = frozenset().union(*STOP.values())


def stem(word, language):
    """A word without its ending, where at least four letters stay; a final s goes from three on ("bus" stays, "cats" does not)."""
    for ending in ENDINGS[language]:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST_STEM:
            return word[: -len(ending)]
    if len(word) == SHORTEST_STEM and word.endswith("s"):
        return word[:-1]
    return word


def content_words(text, language):
    """The distinct stems of a text's words that are no stop words and longer than one letter."""
    return {stem(word, language) for word in tokens(text) if len(word) > 1 and word not in STOP[language]}


def words_in_any(text, language):
    """Like content_words, without the stop words of any language: what a turn is about that may mix them."""
    return {stem(word, language) for word in tokens(text) if len(word) > 1 and word not in STOP_IN_ANY}
