#!/usr/bin/env python3
"""Measures two searches without any learning on the evaluation sets, so that their difficulty can be seen.

    eval/baseline.py [FOLDER]        FOLDER holds the sets (default: eval/sets); prints a table in Markdown

grep: every word of the question is looked for in every document, as letters in any case, also inside of longer words; documents
with more of the words come first, equal ones in the order of the file. BM25: Robertson and Zaragoza 2009 with k1 = 1.2 and
b = 0.75, the logarithm of Lucene (never negative), over lower-case words without stop words or stems. Questions that have no
answer count in neither.
"""

import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import check
import text

K1, B = 1.2, 0.75
DEPTH = 10


def asked_words(question):
    """The words that both searches look for; all of them where every one is a stop word."""
    words = [word for word in text.tokens(question["question"]) if word not in text.STOP[question["language"]]]
    return list(dict.fromkeys(words or text.tokens(question["question"])))


class Grep:
    """Ranks by how many of the words a document has as letters."""

    def __init__(self, loaded):
        self.texts = [(row["id"], loaded.text_of(row).lower()) for row in loaded.documents]

    def search(self, words):
        """The ids of the best documents."""
        scored = [(sum(word in held for word in words), name) for name, held in self.texts]
        return [name for count, name in sorted(scored, key=lambda one: -one[0])[:DEPTH] if count]


class Bm25:
    """Ranks by BM25 over an inverted index."""

    def __init__(self, loaded):
        self.names, self.lengths, self.postings = [], [], defaultdict(list)
        for at, row in enumerate(loaded.documents):
            words = text.tokens(loaded.text_of(row))
            self.names.append(row["id"])
            self.lengths.append(len(words))
            for word, count in Counter(words).items():
                self.postings[word].append((at, count))
        self.mean = sum(self.lengths) / len(self.lengths)

    def search(self, words):
        """The ids of the best documents; equal ones in the order of the file."""
        scores = self.scores(words)
        return [self.names[at] for at in sorted(scores, key=lambda at: (-scores[at], at))[:DEPTH]]

    def scores(self, words):
        """The score of every document that has a word, by its place in the file."""
        scores = defaultdict(float)
        for word in words:
            held = self.postings.get(word, [])
            weight = math.log(1 + (len(self.names) - len(held) + 0.5) / (len(held) + 0.5))
            for at, count in held:
                norm = K1 * (1 - B + B * self.lengths[at] / self.mean)
                scores[at] += weight * count * (K1 + 1) / (count + norm)
        return scores


def measures(found, evidence):
    """First place right, share of the evidence among the ten, one over the place of the first right one."""
    places = [place for place, name in enumerate(found, 1) if name in evidence]
    return (float(places[:1] == [1]), len(places) / len(evidence), 1 / places[0] if places else 0.0)


def table(loaded):
    """The rows of one set: a search, questions of a kind, how many, and the means of the measures."""
    rows = []
    answerable = [question for question in loaded.questions if question["evidence"]]
    kinds = [("all", answerable)]
    kinds += [(half, [q for q in answerable if q["split"] == half]) for half in check.HALVES]
    for key in ("ability", "neighbours", "form"):
        values = dict.fromkeys(q[key] for q in answerable if key in q)
        if len(values) > 1:
            kinds += [(f"{key} {value}", [q for q in answerable if q.get(key) == value]) for value in values]
    for name, engine in (("grep", Grep(loaded)), ("BM25", Bm25(loaded))):
        scored = {q["id"]: measures(engine.search(asked_words(q)), set(q["evidence"])) for q in answerable}
        for kind, questions in kinds:
            means = [sum(scored[q["id"]][at] for q in questions) / len(questions) for at in range(3)]
            rows.append((loaded.name, kind, len(questions), name, *means))
    return rows


def main(given):
    """Prints the table."""
    folder = Path(given[0]) if given else check.SETS
    print("| set | questions | n | search | first right | recall@10 | MRR@10 |\n|---|---|---:|---|---:|---:|---:|")
    for name in check.ABILITIES:
        for row in table(check.load(name, folder)):
            print("| {} | {} | {} | {} | {:.3f} | {:.3f} | {:.3f} |".format(*row))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
