"Counts what really ran, holds the checkout to what it was, and closes with `N passed, 0 failed`."

import os
import subprocess
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores; more threads than cores crawl

from vcae_nb.core import project_root

counts, before = Counter(), []


def checkout():
    "What git says of the working tree."
    status = subprocess.run(["git", "status", "--porcelain"], cwd=project_root(), capture_output=True, text=True)
    return status.stdout if status.returncode == 0 else None


def is_controller(config):
    return not hasattr(config, "workerinput")


def pytest_sessionstart(session):
    if is_controller(session.config):
        before.append(checkout())


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        counts[report.outcome] += 1


def pytest_sessionfinish(session):
    if is_controller(session.config) and before and (after := checkout()) != before[0]:
        changed = sorted(set(before[0].splitlines()) ^ set(after.splitlines()))
        print("\nFAILED the tests changed the checkout, or something else did meanwhile:", *changed, sep="\n  ")
        counts["failed"] += 1
        session.exitstatus = 1


def pytest_unconfigure(config):
    if is_controller(config) and counts:
        skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
        print(f"{counts['passed']} passed, {counts['failed']} failed{skipped}")
