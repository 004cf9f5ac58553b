"""NumPy's linear algebra in one thread, for work on many small matrices: more only wait for each other."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["one_blas_thread"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def one_blas_thread(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Returns the function with NumPy's linear algebra kept to one thread while it runs; JAX's threads are others."""

    @functools.wraps(function)
    def limited(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _controller().limit(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited


@functools.cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
