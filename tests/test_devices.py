"""What befa.devices does to the process that asks for it."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from befa.devices import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def steps(n):
    for _ in range(n):
        # 36 MB: more than glibc keeps by itself.
        gradients = [torch.zeros(n) for n in (9_000_000, 3_000_000, 9_000_000)]

steps(30)
before = faults()
steps(60)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_used_again():
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True).stdout)
        for how in ("given back", "kept")
    )
    assert kept < given_back / 10
