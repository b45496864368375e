#!/usr/bin/env python3
"""Where each demand of RFC 6455 on a server is met, and which test shows it: docs/rfc6455.md.

Citations stand in the source as `//= URL#section-N` and `//# words`, those in tests with
`//= type=test` between. docs/rfc6455.toml has the demands. A demand that is not cited in both places
is an error. With --check nothing is written, and a page that would change is an error too.
"""

import pathlib
import re
import sys
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEMANDS = ROOT / "docs/rfc6455.toml"
PAGE = ROOT / "docs/rfc6455.md"
URL = "https://www.rfc-editor.org/rfc/rfc6455"

CITATION = re.compile(
    r"^ *//= " + re.escape(URL) + r"#section-(?P<section>\S+)\n"
    r"(?P<test> *//= type=test\n)?"
    r"(?P<words>(?: *//#.*\n)+)",
    re.MULTILINE,
)
ITEM = re.compile(r"^ *(?:pub(?:\([a-z]+\))? )?(?:async )?(?:fn|enum|struct) (\w+)", re.MULTILINE)
ABOVE_AN_ITEM = re.compile(r"(?: *(?://|#\[).*\n)*")


class Citation(NamedTuple):
    section: str
    words: str
    is_test: bool
    place: str


def citations(path):
    """The citations in a source file."""
    source = path.read_text()
    for match in CITATION.finditer(source):
        words = " ".join(line.strip().removeprefix("//#") for line in match["words"].splitlines())
        yield Citation(
            match["section"],
            " ".join(words.split()),
            bool(match["test"]),
            f"{path.relative_to(ROOT)}: `{item_at(source, match.end())}`",
        )


def item_at(source, at):
    """The item that begins at a place in the source, or else the one that the place is in."""
    begins = ITEM.match(source, ABOVE_AN_ITEM.match(source, at).end())
    return (begins or list(ITEM.finditer(source, 0, at))[-1])[1]


def read_demands():
    listed = tomllib.loads(DEMANDS.read_text())
    for entry in listed["demand"] + listed["not_done"]:
        for key in entry.keys() & {"text", "reason"}:
            entry[key] = " ".join(entry[key].split())
    return listed["demand"], listed["not_done"]


def is_about(citation, demand):
    """Whether a citation has the demand's words, or some of them, or more around them."""
    return citation.section == demand["section"] and (
        citation.words in demand["text"] or demand["text"] in citation.words
    )


def row(demand, cited):
    """A demand's row in the table, and what is wrong with it."""
    places, tests = [], []
    for citation in cited:
        if is_about(citation, demand):
            (tests if citation.is_test else places).append(citation.place)
    complaints = []
    if not places:
        complaints.append(f"§{demand['section']} is cited above no code: {demand['text']}")
    if not tests:
        complaints.append(f"§{demand['section']} is cited above no test: {demand['text']}")
    cells = [anchor(demand), table_text(demand["text"]), "<br>".join(places), "<br>".join(tests)]
    return f"| {' | '.join(cells)} |", complaints


def anchor(demand):
    return f"[{demand['section']}]({URL}#section-{demand['section']})"


def table_text(text):
    return text.replace("|", "\\|").replace("_", "\\_").replace("<", "\\<")


def page(demands, not_done, cited):
    """The page, and what is wrong."""
    lines = [
        "# RFC 6455, demand by demand",
        "",
        "What [RFC 6455](https://www.rfc-editor.org/rfc/rfc6455) demands of a server, where it is met, and the tests",
        "that show it. Written by `scripts/rfc6455.py` from the citations in the source and from",
        "[rfc6455.toml](rfc6455.toml), which lists the demands; what concerns only clients, proxies and other",
        "specifications is left out.",
        "",
        f"{len(demands)} demands are met:",
        "",
        "| § | demand | met in | shown by |",
        "| --- | --- | --- | --- |",
    ]
    complaints = []
    for demand in demands:
        line, wrong = row(demand, cited)
        lines.append(line)
        complaints += wrong
    lines += [
        "",
        "These are not, deliberately:",
        "",
        "| § | demand | why not |",
        "| --- | --- | --- |",
    ]
    for demand in not_done:
        lines.append(f"| {anchor(demand)} | {table_text(demand['text'])} | {demand['reason']} |")
    return "\n".join(lines) + "\n", complaints


def main():
    sources = sorted([*ROOT.glob("src/**/*.rs"), *ROOT.glob("tests/**/*.rs")])
    cited = [citation for path in sources for citation in citations(path)]
    text, complaints = page(*read_demands(), cited)
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(text)
    elif not PAGE.exists() or PAGE.read_text() != text:
        complaints.append("docs/rfc6455.md is out of date: run scripts/rfc6455.py")
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return 1 if complaints else 0


sys.exit(main())
