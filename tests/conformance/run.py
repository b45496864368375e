"""The Autobahn cases, as PyPI's kosoku has them, against a running server.

run.py URL off|pass-through

Prints the counts of each section and fails on any verdict but OK and INFORMATIONAL, for the messages
of a case or for its closing handshake. exclusions.toml has the cases that are not run, with reasons.
"""

import asyncio
import collections
import os
import pathlib
import sys
import tomllib

from kosoku import FailureError, run_fuzzingclient

ACCEPTED = {"OK", "INFORMATIONAL"}
EXCLUSIONS = pathlib.Path(__file__).with_name("exclusions.toml")
CASES_AT_A_TIME = 4


def exclusions(compression):
    """The patterns of the cases that are not run."""
    conditions = {compression}
    if os.environ.get("WHOLE") != "1":
        conditions.add(f"{compression}, short")
    listed = tomllib.loads(EXCLUSIONS.read_text())["exclusion"]
    return [case for entry in listed if entry["when"] in conditions for case in entry["cases"]]


async def run(url, excluded):
    try:
        return await run_fuzzingclient(url, None, excluded, CASES_AT_A_TIME)
    except FailureError as failure:
        return failure.results


def verdicts(result):
    return {result.behavior.value, result.behavior_close.value}


def report(results, excluded):
    """Prints what came of the cases; says whether all of them passed."""
    sections = collections.defaultdict(collections.Counter)
    failed = []
    for result in results:
        if not verdicts(result) <= ACCEPTED:
            failed.append(result)
            continue
        verdict = "INFORMATIONAL" if "INFORMATIONAL" in verdicts(result) else "OK"
        sections[result.case_id.split(".")[0]][verdict] += 1
    for section, count in sections.items():
        print(f"  section {section:>2}: {count['OK']:3} OK, {count['INFORMATIONAL']} INFORMATIONAL")
    print(f"  not run ({EXCLUSIONS.name} says why): {' '.join(excluded)}")
    for result in failed:
        print(
            f"  {result.case_id}: {result.behavior.value}, closing {result.behavior_close.value}:"
            f" {result.result} {result.result_close}"
        )
    return bool(results) and not failed


def main(url, compression):
    excluded = exclusions(compression)
    results = asyncio.run(run(url, excluded))
    return 0 if report(results, excluded) else 1


status = main(*sys.argv[1:])
sys.stdout.flush()
# kosoku's threads outlive its results, and now and then abort an interpreter that ends in order.
os._exit(status)
