"What is made is right, or refused by name: a seeded part of the campaign that `make faults` runs in full."

import subprocess
import sys
from pathlib import Path


def test_no_fault_is_silent_and_nothing_is_lost():
    command = [sys.executable, Path(__file__).with_name("faults.py"), "--times", "0.03"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and " failed " in done.stdout, done.stdout + done.stderr
