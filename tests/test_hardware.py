"""Freed memory is kept: a block that was freed and is allocated again faults no page."""

import pytest
from helpers import python

from vma.hardware import keep_freed_memory

FAULTS = """
import resource, sys, torch
from vma.hardware import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def update():  # two blocks at a time of some MiB, more than malloc ever keeps by itself
    for n in (40, 48, 44):
        one = torch.ones(n * 2**18)
        two = one + 1
for _ in range(5):
    update()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    update()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="needs Linux with the GNU C library")
def test_freed_memory_is_not_faulted_in_again() -> None:
    def faults(how: str) -> int:
        return int(python("-c", FAULTS, how).stdout)

    assert faults("keep") < faults("leave") / 10
