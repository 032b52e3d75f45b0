#!/usr/bin/env python3
"""Finds words that this code base does not use: coined ones, for which its field has terms. words.txt lists them.

    deploy/checks/words.py [FOLDER]        every file that git tracks; prints file:line, word and term; fails if there is one

A phrase is found across the end of a line too. Markdown may name an old word to say what it is called now: a comment
`<!-- words: heir tenure -->` allows these words on its line, and in a decision record (docs/adr) in the whole file, because
records keep their text. Nothing else is excepted.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).with_name("words.txt")
# What the check is made of, and lists of other people's names.
NOT_READ = {"deploy/checks/words.txt", "deploy/checks/words.py", "deploy/checks/test_words.py", "Cargo.lock", "fuzz/Cargo.lock"}
# What other people wrote, or wrote as other people would: the texts that a search is measured on.
NOT_READ_UNDER = "eval/sets/"
RECORDS = "docs/adr/"
ALLOWED = re.compile(r"<!-- words: ([a-z_ ]+) -->")
COMMENTS = {
    ".rs": re.compile(r"(?<!:)//.*"),
    ".proto": re.compile(r"(?<!:)//.*"),
    ".py": re.compile(r"(?:^|\s)#.*"),
    ".sh": re.compile(r"(?:^|\s)#.*"),
    ".toml": re.compile(r"(?:^|\s)#.*"),
    ".mk": re.compile(r"(?:^|\s)#.*"),
}
QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"")


@dataclass(frozen=True)
class Rule:
    """One form of a word, where it must not stand, and what to write instead."""

    form: str
    # The first form, by which an allowance names all of them.
    word: str
    everywhere: bool
    term: str
    pattern: re.Pattern


def rules(text):
    """The rules of a list, one for each form."""
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        forms, where, term = (part.strip() for part in line.split("|"))
        if where not in ("all", "names"):
            raise ValueError(f"words.txt: {line!r}: {where!r} is neither `all` nor `names`")
        forms = forms.split()
        found += [Rule(form, forms[0], where == "all", term, pattern(form)) for form in forms]
    return found


def pattern(form):
    """Finds a form as a word of its own, and as part of snake_case, CamelCase and UPPER_CASE names."""
    words = form.split("_")
    gap = r"(?:[\s_-]|\s+(?://[/!]?|#|>)\s*)+"
    lower = r"(?<![A-Za-z])" + gap.join(f"[{word[0]}{word[0].upper()}]{word[1:]}" for word in words) + r"(?![a-z])"
    camel = "".join(word.capitalize() for word in words) + r"(?![a-z])"
    upper = r"(?<![A-Za-z])" + gap.join(word.upper() for word in words) + r"(?![A-Za-z])"
    return re.compile(f"{lower}|{camel}|{upper}")


def blank(text):
    """So many spaces, the ends of lines kept."""
    return re.sub(r"[^\n]", " ", text)


def names_of(path, text):
    """A file's text with everything blanked that names no thing: comments, and in Markdown what is not quoted."""
    suffix = Path(path).suffix
    if suffix == ".md":
        kept, last = [], 0
        for quoted in QUOTED.finditer(text):
            kept += [blank(text[last : quoted.start()]), quoted.group()]
            last = quoted.end()
        return "".join(kept) + blank(text[last:])
    comment = COMMENTS.get(suffix)
    if comment is None:
        return text
    return "\n".join(comment.sub(lambda match: blank(match.group()), line) for line in text.split("\n"))


def find(path, text, listed):
    """What is wrong with a file, as (line, word as it stands, term)."""
    lines = text.split("\n")
    allowed = {at: set(match.group(1).split()) for at, line in enumerate(lines, 1) if (match := ALLOWED.search(line))}
    in_record = path.startswith(RECORDS) and path.endswith(".md")
    in_file = set().union(*allowed.values()) if in_record else set()
    if not path.endswith(".md"):
        allowed = {}
    names = names_of(path, text)
    lowered, found = text.lower(), []
    for rule in listed:
        # Most files hold no trace of most words, and this is the quickest way to know.
        if rule.form.split("_")[0] not in lowered:
            continue
        for match in rule.pattern.finditer(text if rule.everywhere else names):
            line = text.count("\n", 0, match.start()) + 1
            if rule.word in in_file or rule.word in allowed.get(line, ()):
                continue
            found.append((line, " ".join(match.group().split()), rule.term))
    return sorted(found)


def tracked(folder):
    """The files of a checkout."""
    listed = subprocess.run(["git", "-C", folder, "ls-files", "-z"], check=True, capture_output=True).stdout
    return [name for name in listed.decode().split("\0") if name and is_read(name)]


def is_read(name):
    """Whether the check is for this file."""
    return name not in NOT_READ and (not name.startswith(NOT_READ_UNDER) or name.endswith((".md", ".py")))


def main(given):
    """The exit status."""
    folder = Path(given[0]) if given else Path(__file__).resolve().parents[2]
    listed, count = rules(LIST.read_text()), 0
    for name in tracked(folder):
        for rule in listed:
            if rule.pattern.search(name.replace("/", " ")):
                print(f"{name}: the file's name has {rule.form!r}; say {rule.term}")
                count += 1
        path = folder / name
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for line, word, term in find(name, text, listed):
            print(f"{name}:{line}: {word!r}; say {term}")
            count += 1
    if count:
        print(f"words: {count} found; deploy/checks/words.txt has the terms", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
