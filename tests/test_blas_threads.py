"""Linear algebra in one thread while a function runs, and in as many as before afterwards."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from jaxclear.blas_threads import one_blas_thread


def threads():
    np.linalg.inv(np.eye(2))
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_one_thread_while_it_runs():
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        if before != {2}:
            pytest.skip(f"this NumPy's linear algebra cannot be given two threads, it has {before}")
        assert one_blas_thread(threads)() == {1}
        assert threads() == {2}


def test_threads_come_back_after_an_error():
    @one_blas_thread
    def fails():
        raise ValueError("no")

    before = threads()
    with pytest.raises(ValueError, match="no"):
        fails()
    assert threads() == before


def test_arguments_and_name_are_those_of_the_function():
    @one_blas_thread
    def total(a, *, b):
        """Adds."""
        return a + b

    assert total(1, b=2) == 3
    assert (total.__name__, total.__doc__) == ("total", "Adds.")
