#!/usr/bin/env python3
"""Real texts for the demo, as JSON Lines on standard output.

Every Debian or Ubuntu machine can have the long descriptions of all packages (the Translation-en lists): about 60,000
texts by people about things people know. They are taken from apt's lists, or fetched into a folder of our own, which
needs no root. Elsewhere the machine's manual pages serve, else the documents of this repository.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys

# Parts of programs rather than programs: their descriptions repeat those of the whole.
PARTS = re.compile(
    r"^(lib|python3?-|ruby-|golang-|node-|php|r-(cran|bioc)-|haskell-|elpa-|erlang-|ocaml-|texlive-|fonts-|xfonts-"
    r"|hunspell-|aspell-|myspell-|mythes-|hyphen-|wordlist-|task-|linux-|gcc-|g\+\+-|gfortran-|gnat-|gobjc|gdc-|cpp-"
    r"|binutils-|librust-|rust-|gir1\.2-|firefox-esr-l10n|thunderbird-l10n|libreoffice-(l10n|help)|kde-l10n|openjdk-"
    r"|llvm-|clang-|boost|puppet-module-|uwsgi-plugin|asterisk-|gnustep|manpages-|debian-|education-|cross)"
    r"|-(dev|dbg|dbgsym|doc|docs|data|common|bin|examples|tests?|headers|udeb|perl|l10n|i18n|locales?|cil|java|plugins?"
    r"|modules?|extras?|core|base|static|runtime|theme|icons|gui-common|dkms|source)$|-l10n-|-lang-|-doc-|dbg$"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--chars", type=int, default=400, help="characters of each text")
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for fetched lists")
    options = parser.parse_args()

    for name, source in (
        ("Debian package descriptions", lambda: debian(options.cache)),
        ("manual pages", manual_pages),
        ("documents of this repository", documents),
    ):
        texts = sample(source(), options.count)
        if texts:
            break
        print(f"corpus: no {name} here", file=sys.stderr)
    for key, (title, text) in texts:
        content = cut(f"{title}\n{text}", options.chars)
        print(json.dumps({"content": content, "type": "document", "metadata": {"name": key}}, ensure_ascii=False))
    print(f"corpus: {len(texts)} texts from {name}", file=sys.stderr)
    return 0 if texts else 1


def sample(texts: dict, count: int) -> list:
    """An even sample that is the same on every machine with the same texts."""
    order = sorted(texts.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return sorted(order[:count])


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, ending with a whole sentence or word."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1]
    sentence = max(head.rfind(". "), head.rfind(".\n"))
    return head[: sentence + 1] if sentence > limit // 2 else head.rsplit(None, 1)[0]


def debian(cache: pathlib.Path) -> dict:
    helper = pathlib.Path("/usr/lib/apt/apt-helper")
    if not helper.exists():
        return {}
    lists = translations(pathlib.Path("/var/lib/apt/lists")) or translations(cache / "lists")
    if not lists and fetch(cache):
        lists = translations(cache / "lists")
    texts = {}
    for path in lists:
        listing = subprocess.run([helper, "cat-file", path], check=True, capture_output=True).stdout.decode()
        texts.update(descriptions(listing))
    return texts


def translations(folder: pathlib.Path) -> list:
    return sorted(path for path in folder.glob("*_i18n_Translation-en*") if path.stat().st_size > 0)


def fetch(cache: pathlib.Path) -> bool:
    """Only the descriptions, into our own folder, as whoever runs this."""
    (cache / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::lists": cache / "lists",
        "Dir::Cache": cache,
        "Acquire::Languages": "en",
        "Acquire::IndexTargets::deb::Packages::DefaultEnabled": "false",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::IndexTargets::deb::CNF::DefaultEnabled": "false",
        "APT::Sandbox::User": "",
    }
    command = ["apt-get", "update", "-qq"] + [f"-o{name}={value}" for name, value in settings.items()]
    print("corpus: fetching the package descriptions (7 MB)", file=sys.stderr)
    return subprocess.run(command, stdout=sys.stderr).returncode == 0


def descriptions(listing: str) -> dict:
    """Package -> (synopsis, long description), without parts of packages."""
    found = {}
    for entry in listing.split("\n\n"):
        name = re.match(r"Package: (\S+)", entry)
        text = re.search(r"^Description-en: (.*)\n((?: .*\n?)*)", entry, re.MULTILINE)
        if name and text and not PARTS.search(name[1]):
            lines = [line[1:] for line in text[2].splitlines()]
            flowing = " ".join("\n" if line == "." else line.strip() for line in lines)
            found[name[1]] = (f"{name[1]}: {text[1]}", re.sub(r" *\n *", "\n", flowing).strip())
    return found


def manual_pages() -> dict:
    """Name -> (line of NAME, DESCRIPTION) of the pages for users and administrators."""
    found = {}
    for folder in ("man1", "man6", "man8"):
        for path in sorted(pathlib.Path("/usr/share/man", folder).glob("*.gz")):
            try:
                source = gzip.decompress(path.read_bytes()).decode(errors="ignore")
            except OSError:
                continue
            sections = re.split(r'^\.S[Hh] +"?([^"\n]*)"?\s*$', source, flags=re.MULTILINE)
            texts = {title.strip().upper(): plain(text) for title, text in zip(sections[1::2], sections[2::2])}
            if texts.get("NAME") and texts.get("DESCRIPTION"):
                found[path.name.split(".")[0]] = (texts["NAME"], texts["DESCRIPTION"])
    return found


def plain(roff: str) -> str:
    lines = (re.sub(r"^\.[A-Za-z]{1,2}\b *", "", line) for line in roff.splitlines() if not line.startswith((".\\", "'")))
    text = re.sub(r"\\f[A-Z]|\\f\(..|\\s[-+]?\d|\\&|\\\|", "", " ".join(lines))
    return re.sub(r"\s+", " ", text.replace("\\-", "-").replace("\\(aq", "'").replace('"', "")).strip()


def documents() -> dict:
    """Place -> (file, paragraph) of the Markdown files and the comments of the sources."""
    root = pathlib.Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    names = subprocess.run([git, "-C", root, "ls-files", "*.md", "*.rs"], capture_output=True, text=True).stdout if git else ""
    found = {}
    for name in names.split():
        text = (root / name).read_text(errors="ignore")
        if name.endswith(".rs"):
            text = re.sub(r"^ *//[/!]? ?", "", "\n".join(re.findall(r"^ *//.*$|^\s*$", text, re.MULTILINE)), flags=re.MULTILINE)
        for number, paragraph in enumerate(re.split(r"\n\s*\n", text)):
            if len(paragraph) > 80:
                found[f"{name}#{number}"] = (name, " ".join(paragraph.split()))
    return found


if __name__ == "__main__":
    sys.exit(main())
