"""Who does which items, and how large units and chunks are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxclear.dataset.units import Place, chunk_items, default_unit, place, unit_range, units_of


@given(items=st.integers(0, 500), size=st.integers(1, 60), world=st.integers(1, 9))
def test_every_item_belongs_to_exactly_one_process(items, size, world):
    number = -(-items // size)
    seen = [
        item
        for rank in range(world)
        for unit in units_of(Place(rank, world, "arguments"), number)
        for item in unit_range(unit, size, items)
    ]
    assert sorted(seen) == list(range(items))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, "default")),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "64"}, (5, 64, "Slurm")),
        ({"JOB_COMPLETION_INDEX": "2", "JOB_COMPLETIONS": "8"}, (2, 8, "Kubernetes")),
    ],
)
def test_the_scheduler_tells_the_place(monkeypatch, environment, expected):
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place(None, None) == expected
    assert place(1, 2) == (1, 2, "arguments")


def test_a_half_told_place_is_refused():
    with pytest.raises(ValueError, match="expected JOB_COMPLETIONS beside JOB_COMPLETION_INDEX"):
        place(None, None, {"JOB_COMPLETION_INDEX": "2"})
    with pytest.raises(ValueError, match="rank and world together"):
        place(None, 3)
    with pytest.raises(ValueError, match="got rank -1 of 3"):
        place(-1, 3)
    with pytest.raises(ValueError, match=r"whole numbers, got \('a', '2'\) from Slurm"):
        place(None, None, {"SLURM_PROCID": "a", "SLURM_NTASKS": "2"})


@given(
    items=st.integers(0, 10**8),
    side=st.integers(1, 1024),
    classes=st.integers(1, 1000),
)
def test_units_are_powers_of_two_that_chunks_divide(items, side, classes):
    shapes = [((side, side), 1), ((side, side), 2), ((classes,), 4), ((), 4)]
    unit = default_unit(items, shapes)
    assert unit & (unit - 1) == 0
    assert 1 <= unit <= 4096
    assert unit * side * side * 2 <= 96 * 2**20
    for shape, size in shapes:
        assert unit % chunk_items(shape, size, unit) == 0


def test_sizes_that_were_measured_to_be_good():
    maps = {side: [((side, side), 1), ((side, side), 2), ((), 4)] for side in (28, 64, 224)}
    assert default_unit(14_000_000, maps[28]) == 4096
    assert default_unit(14_000_000, maps[224]) == 512
    assert default_unit(10_000, maps[28]) == 256
    assert default_unit(1, maps[64]) == 16
    assert chunk_items((28, 28), 2, 4096) == 64
    assert chunk_items((224, 224), 2, 512) == 1
    assert chunk_items((28, 28), 2, 7) == 1
