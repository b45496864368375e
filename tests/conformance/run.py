"""The Autobahn cases, as PyPI's kosoku has them, against a running server.

run.py URL SECTION...

Prints the counts of each section and fails on any verdict but OK and INFORMATIONAL, for the messages
of a case or for its closing handshake. exclusions.txt has the cases that are not run, with reasons.
"""

import asyncio
import collections
import fnmatch
import os
import pathlib
import sys

from kosoku import FailureError, run_fuzzingclient

ACCEPTED = {"OK", "INFORMATIONAL"}
EXCLUSIONS = pathlib.Path(__file__).with_name("exclusions.txt")
CASES_AT_A_TIME = 4


def exclusions_among(selected):
    """The cases that are not run, of those that any of the selected patterns matches."""
    lines = EXCLUSIONS.read_text().splitlines()
    excluded = [line.split()[0] for line in lines if not line.startswith("#")]
    return [case for case in excluded if any(fnmatch.fnmatch(case, it) for it in selected)]


def section(result):
    return result.case_id.split(".")[0]


def verdicts(result):
    return {result.behavior.value, result.behavior_close.value}


async def run(url, sections):
    """Runs the cases of the sections; returns their results, and which were not run."""
    selected = [f"{section}.*" for section in sections]
    exclusions = exclusions_among(selected)
    try:
        return await run_fuzzingclient(url, selected, exclusions, CASES_AT_A_TIME), exclusions
    except FailureError as failure:
        return failure.results, exclusions


def report(sections, results, exclusions):
    """Prints what came of the cases; says whether each section passed."""
    accepted = [result for result in results if verdicts(result) <= ACCEPTED]
    informational = [result for result in accepted if "INFORMATIONAL" in verdicts(result)]
    passed = collections.Counter(map(section, accepted))
    unspecified = collections.Counter(map(section, informational))
    for name in sections:
        ok = passed[name] - unspecified[name]
        print(f"  section {name:>2}: {ok:3} OK, {unspecified[name]} INFORMATIONAL")
    if exclusions:
        print(f"  not run ({EXCLUSIONS.name} says why): {' '.join(exclusions)}")
    for result in results:
        if result not in accepted:
            print(
                f"  {result.case_id}: {result.behavior.value}, closing"
                f" {result.behavior_close.value}: {result.result} {result.result_close}"
            )
    return len(accepted) == len(results) and all(passed[name] for name in sections)


def main(url, *sections):
    results, exclusions = asyncio.run(run(url, sections))
    return 0 if report(sections, results, exclusions) else 1


status = main(*sys.argv[1:])
sys.stdout.flush()
# kosoku's threads outlive its results, and now and then abort an interpreter that ends in order.
os._exit(status)
