"""Killed at random moments, with one process or two, the power cut in half the cases: the same bytes in the end."""

import os
import random

import pytest

from effort import examples
from tests.dataset.common import files
from tests.dataset.killing import attempt, context, kill_often, power_cut


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kills_at_random_moments(tmp_path):
    kills = examples(8)
    counts = kill_often(tmp_path, kills, seed=random.randrange(2**32))
    print(counts)
    assert counts["kills"] >= kills


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_kill_at_the_very_first_and_at_every_kind_of_rename(tmp_path):
    processes = context()
    assert attempt(processes, tmp_path / "unbroken")[0] == [0]
    for deadly in (1, 2, 3):
        assert attempt(processes, tmp_path / "store", deadly=deadly)[0] == [-9]
        power_cut(tmp_path / "store", random.Random(deadly))
    assert attempt(processes, tmp_path / "store")[0] == [0]
    assert files(tmp_path / "store") == files(tmp_path / "unbroken")
