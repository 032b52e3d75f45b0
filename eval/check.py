#!/usr/bin/env python3
"""Checks the evaluation sets against the rules that README.md names.

    eval/check.py [FOLDER]        FOLDER holds conversations/, packages/ and exact/ (default: eval/sets)

Prints one line for each broken rule; the exit status is 1 if there is one. Otherwise it prints what it has counted.
"""

import json
import re
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import text

SETS = Path(__file__).with_name("sets")
ABILITIES = {
    "conversations": ("single_fact", "several_facts", "time", "changed_fact", "preference", "not_answerable"),
    "packages": ("purpose",),
    "exact": ("error_message", "identifier", "path"),
}
LEAST_QUESTIONS = {"conversations": 200, "packages": 300, "exact": 200}
# Of questions for each ability; less would say nothing about it.
LEAST_OF_ABILITY = 25
LEAST_SESSIONS, LEAST_TURNS = 20, 600
LEAST_DOCUMENTS = {"packages": 2000, "exact": 500}
MOST_BYTES = 2_500_000
# Shares as fractions, compared in whole numbers: shared words, questions that no neighbour helps, German sessions.
THIRD = (1, 3)
# Each half holds two fifths of a set's questions or more.
LEAST_OF_HALF = (2, 5)
HALVES = ("learn", "report")
NEIGHBOURS = ("help", "do not help")
# How many turns before and after a turn count as its neighbours.
REACH = 2
# So many words may a neighbour have in common with the evidence beside it and still be about something else.
MOST_COMMON_WITH_NEIGHBOUR = 2
# More than so many places, and a question for one identifier has no one place to find.
MOST_PLACES = 6
FORMS = ("as written", "other case", "split", "part", "without path")
FIELDS = {
    "turn": {"session", "turn", "id", "speaker", "role", "created_at", "language", "text"},
    "package": {"id", "section", "summary", "description"},
    "passage": {"id", "source", "text"},
    "question": {"id", "ability", "language", "question", "evidence", "split"},
}
MAY = {"conversations": {"outdated", "neighbours", "now"}, "packages": set(), "exact": {"identifier", "form"}}


class Set:
    """One set as it was read: its documents (turns, packages or passages) and its questions."""

    def __init__(self, name, documents, questions):
        self.name, self.documents, self.questions = name, documents, questions
        self.by_id = {document["id"]: document for document in documents}

    def text_of(self, document):
        """All of a document that can be searched."""
        if self.name == "packages":
            return f"{document['id']}\n{document['summary']}\n{document['description']}"
        return document["text"]


def read(path):
    """The rows of a file in JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load(name, folder=SETS):
    """A set from its folder."""
    documents = "sessions.jsonl" if name == "conversations" else "documents.jsonl"
    return Set(name, read(folder / name / documents), read(folder / name / "questions.jsonl"))


def repeated(values):
    """What occurs more than once."""
    return sorted(value for value, count in Counter(values).items() if count > 1)


def less_than(part, whole, fraction):
    """Whether part / whole is less than the fraction, without rounding."""
    return part * fraction[1] < whole * fraction[0]


def more_than(part, whole, fraction):
    """Whether part / whole is more than the fraction, without rounding."""
    return part * fraction[1] > whole * fraction[0]


def moment(written):
    """A time as it must be written: UTC, to the second, with a Z."""
    return datetime.strptime(written, "%Y-%m-%dT%H:%M:%SZ")


def fields(loaded):
    """Every row has its fields and no others, in a known language; what follows relies on it."""
    kind = {"conversations": "turn", "packages": "package", "exact": "passage"}[loaded.name]
    found = []
    for row in loaded.documents:
        if set(row) != FIELDS[kind]:
            found.append(f"{row.get('id')}: fields {sorted(row)}, not {sorted(FIELDS[kind])}")
        elif row.get("language", "en") not in text.LANGUAGES:
            found.append(f"{row['id']}: unknown language {row['language']!r}")
    for row in loaded.questions:
        if not FIELDS["question"] <= set(row) <= FIELDS["question"] | MAY[loaded.name]:
            found.append(f"{row.get('id')}: fields {sorted(row)}")
        elif row["language"] not in text.LANGUAGES:
            found.append(f"{row['id']}: unknown language {row['language']!r}")
    return found


def counts(loaded):
    """Enough questions, of each ability, in each half."""
    found, questions = [], loaded.questions
    if len(questions) < LEAST_QUESTIONS[loaded.name]:
        found.append(f"{len(questions)} questions, fewer than {LEAST_QUESTIONS[loaded.name]}")
    abilities = Counter(question["ability"] for question in questions)
    for ability in sorted(set(abilities) - set(ABILITIES[loaded.name])):
        found.append(f"unknown ability {ability!r}")
    for ability in ABILITIES[loaded.name]:
        if abilities[ability] < LEAST_OF_ABILITY:
            found.append(f"{abilities[ability]} questions of {ability}, fewer than {LEAST_OF_ABILITY}")
        for half in HALVES:
            if not any(question["ability"] == ability and question["split"] == half for question in questions):
                found.append(f"no question of {ability} in the half {half}")
    halves = Counter(question["split"] for question in questions)
    for half in sorted(set(halves) - set(HALVES)):
        found.append(f"unknown half {half!r}")
    for half in HALVES:
        if less_than(halves[half], len(questions), LEAST_OF_HALF):
            found.append(f"the half {half} holds {halves[half]} of {len(questions)} questions")
    return found


def no_duplicates(loaded):
    """Ids, texts and questions occur once."""
    found = [f"id {value} occurs twice" for value in repeated(row["id"] for row in loaded.documents)]
    found += [f"id {value} occurs twice" for value in repeated(row["id"] for row in loaded.questions)]
    asked = (" ".join(text.tokens(row["question"])) for row in loaded.questions)
    found += [f"question {value!r} occurs twice" for value in repeated(asked)]
    texts = (" ".join(loaded.text_of(row).lower().split()) for row in loaded.documents)
    found += [f"document {value[:60]!r} occurs twice" for value in repeated(texts)]
    return found


def evidence(loaded):
    """Evidence exists, as much of it as the ability asks for, and no half knows a place of the other."""
    found, half_of = [], {}
    for question in loaded.questions:
        name, ids = question["id"], question["evidence"]
        missing = [one for one in ids + question.get("outdated", []) if one not in loaded.by_id]
        found += [f"{name}: evidence {one} does not exist" for one in missing]
        if len(set(ids)) != len(ids):
            found.append(f"{name}: evidence named twice")
        least = {"not_answerable": 0, "several_facts": 2}.get(question["ability"], 1)
        if len(ids) < least or (least == 0 and ids):
            found.append(f"{name}: {len(ids)} places of evidence for {question['ability']}")
        for one in ids:
            # A half that learns from a session has seen what the other half asks about it.
            place = loaded.by_id.get(one, {}).get("session", one)
            if half_of.setdefault(place, question["split"]) != question["split"]:
                found.append(f"{name}: {place} is evidence in both halves")
    return found


def shared_words(loaded):
    """No question shares more than a third of its content words with all of its evidence together."""
    found = []
    for question in loaded.questions:
        asked, shared = overlap(loaded, question)
        if len(asked) < 2:
            found.append(f"{question['id']}: fewer than two content words")
        if more_than(len(shared), len(asked), THIRD):
            found.append(f"{question['id']}: shares {sorted(shared)} of {sorted(asked)} with its evidence")
    return found


def overlap(loaded, question):
    """The content words of a question, and those of them that its evidence has."""
    language = question["language"]
    asked = text.content_words(question["question"], language)
    held = set()
    for one in question["evidence"]:
        if one in loaded.by_id:
            held |= {text.stem(word, language) for word in text.tokens(loaded.text_of(loaded.by_id[one]))}
    return asked, asked & held


def neighbours(loaded):
    """Questions marked "do not help" have evidence whose neighbours are about something else; a third are marked so."""
    found, at = [], {(turn["session"], turn["turn"]): turn for turn in loaded.documents}
    for question in loaded.questions:
        marked = question.get("neighbours")
        if question["ability"] == "not_answerable":
            found += [f"{question['id']}: neighbours of no evidence"] if marked else []
        elif marked not in NEIGHBOURS:
            found.append(f"{question['id']}: neighbours {marked!r}")
        elif marked == "do not help":
            found += helping(loaded, question, at)
    count = sum(question.get("neighbours") == "do not help" for question in loaded.questions)
    if less_than(count, len(loaded.questions), THIRD):
        found.append(f"{count} of {len(loaded.questions)} questions that no neighbour helps to find, fewer than a third")
    return found


def helping(loaded, question, at):
    """Where a neighbour of the evidence has a content word of the question, or too many of the evidence."""
    found, language = [], question["language"]
    asked = text.content_words(question["question"], language)
    for one in question["evidence"]:
        turn = loaded.by_id.get(one)
        if turn is None:
            continue
        said = text.words_in_any(turn["text"], turn["language"])
        for step in range(-REACH, REACH + 1):
            near = at.get((turn["session"], turn["turn"] + step))
            if near is None or near["id"] in question["evidence"]:
                continue
            stems = {text.stem(word, language) for word in text.tokens(near["text"])}
            if asked & stems:
                found.append(f"{question['id']}: {near['id']} beside {one} has {sorted(asked & stems)}")
            common = said & text.words_in_any(near["text"], turn["language"])
            if len(common) > MOST_COMMON_WITH_NEIGHBOUR:
                found.append(f"{question['id']}: {near['id']} and {one} have {sorted(common)} in common")
    return found


def dates(loaded):
    """Turns stand in the order in which they were said, sessions do not overlap, and a question comes after its evidence."""
    found, last, seen, place = [], None, [], 0
    for turn in loaded.documents:
        try:
            when = moment(turn["created_at"])
        except ValueError:
            found.append(f"{turn['id']}: created_at {turn['created_at']!r}")
            continue
        if last is not None and when <= last:
            found.append(f"{turn['id']}: not after the turn before it")
        last = when
        if turn["session"] not in seen[-1:]:
            if turn["session"] in seen:
                found.append(f"{turn['id']}: session {turn['session']} is interrupted")
            seen.append(turn["session"])
            place = 0
        place += 1
        if turn["turn"] != place:
            found.append(f"{turn['id']}: turn {turn['turn']} stands at place {place}")
    if not found:
        found += [problem for question in loaded.questions for problem in question_dates(loaded, question)]
    return found


def question_dates(loaded, question):
    """`now` follows the evidence and questions of time have it; a changed fact follows what it replaces."""
    found, name = [], question["id"]
    said = [moment(loaded.by_id[one]["created_at"]) for one in question["evidence"] if one in loaded.by_id]
    if "now" in question:
        try:
            if said and moment(question["now"]) <= max(said):
                found.append(f"{name}: now is not after the evidence")
        except ValueError:
            found.append(f"{name}: now {question['now']!r}")
    elif question["ability"] == "time":
        found.append(f"{name}: a question of time without now")
    before = [moment(loaded.by_id[one]["created_at"]) for one in question.get("outdated", []) if one in loaded.by_id]
    if bool(before) != (question["ability"] == "changed_fact"):
        found.append(f"{name}: outdated places belong to changed facts, and only there")
    elif before and said and max(before) >= min(said):
        found.append(f"{name}: the outdated place is not older than the evidence")
    return found


def conversations(loaded):
    """Enough sessions and turns in two languages, a third of the sessions German."""
    found, sessions = [], {}
    for turn in loaded.documents:
        sessions.setdefault(turn["session"], []).append(turn)
    if len(sessions) < LEAST_SESSIONS:
        found.append(f"{len(sessions)} sessions, fewer than {LEAST_SESSIONS}")
    if len(loaded.documents) < LEAST_TURNS:
        found.append(f"{len(loaded.documents)} turns, fewer than {LEAST_TURNS}")
    german = sum(all(turn["language"] == "de" for turn in turns) for turns in sessions.values())
    if less_than(german, len(sessions), THIRD):
        found.append(f"{german} of {len(sessions)} sessions are German, fewer than a third")
    if all(len({turn["language"] for turn in turns}) == 1 for turns in sessions.values()):
        found.append("no session has two languages")
    return found


def documents(loaded):
    """A few thousand documents, in a file that a repository can hold."""
    found = []
    if len(loaded.documents) < LEAST_DOCUMENTS[loaded.name]:
        found.append(f"{len(loaded.documents)} documents, fewer than {LEAST_DOCUMENTS[loaded.name]}")
    size = sum(len(json.dumps(row, ensure_ascii=False).encode()) + 1 for row in loaded.documents)
    if size > MOST_BYTES:
        found.append(f"{size} bytes of documents, more than {MOST_BYTES}")
    return found


def identifiers(loaded):
    """A question is for exactly the places that hold its identifier, and writes it in the form that it names."""
    found = []
    for question in loaded.questions:
        name, identifier = question["id"], question.get("identifier", "")
        if not identifier or question.get("form") not in FORMS:
            found.append(f"{name}: identifier {identifier!r} in the form {question.get('form')!r}")
            continue
        places = [row["id"] for row in loaded.documents if holds(row["text"], identifier)]
        if sorted(places) != sorted(question["evidence"]):
            found.append(f"{name}: {identifier!r} stands in {places}, evidence is {question['evidence']}")
        if len(places) > MOST_PLACES:
            found.append(f"{name}: {identifier!r} stands in {len(places)} places, more than {MOST_PLACES}")
        if form_of(identifier, question["question"]) != question["form"]:
            found.append(f"{name}: {identifier!r} is not {question['form']!r} in {question['question']!r}")
    return found


def holds(passage, identifier):
    """Whether a passage has the identifier and not only a longer one around it; lines may be broken inside of it."""
    parts = identifier.split()
    if not all(part in passage for part in parts):
        return False
    spaced = r"\s+".join(map(re.escape, parts))
    return re.search(rf"(?<![A-Za-z0-9_]){spaced}(?![A-Za-z0-9_])", passage) is not None


def form_of(identifier, question):
    """How a question writes an identifier, as one of FORMS; None where it does not."""
    if identifier in question:
        return "as written"
    if identifier.lower() in question.lower():
        return "other case"
    if squashed(identifier) in squashed(question):
        return "split"
    if "/" in identifier and identifier.rstrip("/").rsplit("/", 1)[1] in question:
        return "without path"
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+", identifier)
    asked = text.tokens(question.replace("_", " ").replace(".", " "))
    return "part" if any(len(part) > 3 and part.lower() in asked for part in parts) else None


def squashed(written):
    """Only its letters and digits, in lower case."""
    return re.sub(r"[\W_]", "", written.lower())


RULES = {
    "conversations": (counts, no_duplicates, evidence, shared_words, conversations, dates, neighbours),
    "packages": (counts, no_duplicates, evidence, shared_words, documents),
    "exact": (counts, no_duplicates, evidence, documents, identifiers),
}


def problems(loaded):
    """Every broken rule of a set."""
    found = fields(loaded)
    if not found:
        found = [problem for rule in RULES[loaded.name] for problem in rule(loaded)]
    return [f"{loaded.name}: {problem}" for problem in found]


def main(given):
    """The exit status."""
    folder = Path(given[0]) if given else SETS
    found = []
    for name in ABILITIES:
        loaded = load(name, folder)
        found += problems(loaded)
        kinds = Counter(question["ability"] for question in loaded.questions)
        print(f"{name}: {len(loaded.documents)} documents, {len(loaded.questions)} questions: {dict(sorted(kinds.items()))}")
    for problem in found:
        print(problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
