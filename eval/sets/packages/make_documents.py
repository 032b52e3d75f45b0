#!/usr/bin/env python3
"""Writes documents.jsonl: the names, sections and descriptions of the packages in names.txt, as apt knows them.

    apt-get -o Acquire::Languages=en update
    eval/sets/packages/make_documents.py

It needs a Debian 12 (bookworm). A point release may reword a description; the committed file is what counts.
"""

import json
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
# So many names to one call stay far below the longest command line.
AT_ONCE = 400


def names():
    """The pinned names, in the order of the file."""
    lines = (HERE / "names.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def records(wanted):
    """The newest record of each package, as apt prints them."""
    command = ["apt-cache", "-o", "Acquire::Languages=en", "show", "--no-all-versions"]
    for start in range(0, len(wanted), AT_ONCE):
        answer = subprocess.run(command + wanted[start : start + AT_ONCE], check=True, capture_output=True, text=True)
        yield from (record for record in answer.stdout.split("\n\n") if record.strip())


def fields(record):
    """The fields of a record; a line that begins with a space continues the field above it."""
    found, name = {}, None
    for line in record.splitlines():
        if line.startswith(" "):
            found[name] += "\n" + line[1:]
        else:
            name, _, value = line.partition(": ")
            found[name] = value
    return found


def document(record):
    """A package as the set holds it; a line of a single dot is an empty line in Debian's format."""
    known = fields(record)
    if "Description-en" not in known:
        raise SystemExit(f"{known['Package']}: no long description; update the lists with Acquire::Languages=en first")
    summary, *rest = known["Description-en"].split("\n")
    description = "\n".join("" if line == "." else line for line in rest)
    return {"id": known["Package"], "section": known["Section"], "summary": summary, "description": description}


def main():
    """Writes the file, or says which names the lists do not have."""
    wanted = names()
    made = {row["id"]: row for row in map(document, records(wanted))}
    missing = sorted(set(wanted) - set(made))
    if missing:
        raise SystemExit(f"not in the lists: {missing}")
    lines = (json.dumps(made[name], ensure_ascii=False) + "\n" for name in wanted)
    (HERE / "documents.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
