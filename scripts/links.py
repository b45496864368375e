#!/usr/bin/env python3
"""Checks the pages: links lead somewhere, paths that they name exist, and lines are not too long.

A relative link must name a file, and its anchor a heading of that page. A path in code spans or source
(`src/...`, `docs/...` and so on) must exist. A test that the security page names (`module::test`) must exist
in a module of that name. Lines have 120 columns at most, outside tables. Prints each fault as FILE:LINE; the
exit code is 1 if there is one.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS_MAX = 120
FENCE = re.compile(r"^\s*```")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:benches|docs|fuzz|loadtest|scripts|src|tests)/[\w./-]+)`")
PAGE = re.compile(r"\bdocs/(?:operate/)?[\w-]+\.md\b")
# The page whose claims are tests.
CLAIMS = ROOT / "docs/operate/security.md"
NAMED_TEST = re.compile(r"`(\w+)::(\w+)`")
TEST = re.compile(r"#\[test\]\n(?:\s*(?:#\[.*\]|//.*)\n)*\s*fn (\w+)\(")


def tracked(*patterns):
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def outside_fences(text):
    """The numbered lines that are prose."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            yield number, line


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = (line.lstrip("#") for _, line in outside_fences(page.read_text()) if re.match("#+ ", line))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def faults_of_link(page, link):
    if re.match(r"[a-z]+:", link):
        return
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    if not target.exists():
        yield f"{link} does not exist"
    elif anchor and anchor not in anchors(target):
        yield f"{link}: there is no such heading"


def tests():
    """The tests, each as the name of its module and its own. A folder's module has those of its tests.rs too."""
    found = set()
    for source in tracked("src/*.rs", "tests/*.rs", "loadtest/*.rs"):
        modules = {source.stem, source.parent.name}
        found |= {(module, test) for test in TEST.findall(source.read_text()) for module in modules}
    return found


def faults_of_claims():
    found = tests()
    for number, line in outside_fences(CLAIMS.read_text()):
        for module, test in NAMED_TEST.findall(line):
            if (module, test) not in found:
                yield number, f"there is no test {module}::{test}"


def faults(page):
    text = page.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > COLUMNS_MAX and not line.lstrip().startswith("|"):
            yield number, f"{len(line)} columns"
    for number, line in outside_fences(text):
        for link in LINK.findall(line):
            yield from ((number, fault) for fault in faults_of_link(page, link))
        yield from ((number, f"{path} does not exist") for path in PATH.findall(line) if not (ROOT / path).exists())


def faults_of_source(source):
    for number, line in enumerate(source.read_text().splitlines(), 1):
        yield from ((number, f"{name} does not exist") for name in PAGE.findall(line) if not (ROOT / name).exists())


def main():
    found = [(page, *fault) for page in tracked("*.md") for fault in faults(page)]
    found += [(CLAIMS, *fault) for fault in faults_of_claims()]
    sources = tracked("*.rs", "*.sh", "*.py", "*.toml")
    found += [(source, *fault) for source in sources for fault in faults_of_source(source)]
    for file, number, fault in found:
        print(f"{file.relative_to(ROOT)}:{number}: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
