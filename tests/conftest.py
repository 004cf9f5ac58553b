"""Eight CPU devices, or TEST_DEVICES, so that multi-device code is always tested; everywhere the same examples.

Nearly all of the time goes into compiling. So LLVM leaves the tests' programs as they are, and what optimisation.py
compares sees to it that their numbers are those of programs that users have; nothing compiled is kept, commands under
test leave the user's cache folder alone. What is marked `thorough` has more or larger input than a test beside it, or
runs an experiment whose parts are tested by themselves.

`pytest --thorough` has all of them, more examples, and programs as users have them;
`pytest --hypothesis-profile=default` looks for new examples.
"""

import os

import hypothesis
import pytest

os.environ["TEST_DEVICES"] = os.environ.get("TEST_DEVICES", "8")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# JAX reads the one above when it is imported, what is below when it looks for its devices.
from jaxclear.cpu_threads import threads_for

os.environ["NPROC"] = str(threads_for(int(os.environ["TEST_DEVICES"])))

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="what takes long too, compiled as users have it")


def pytest_configure(config):
    config.addinivalue_line("markers", "thorough: takes long, and only `pytest --thorough` runs it")
    level = 0
    if config.getoption("--thorough"):
        level = 3
        os.environ["TEST_THOROUGH"] = "1"  # for effort.py
    os.environ["XLA_FLAGS"] = (  # of a flag that is there twice the last one counts
        f"--xla_backend_optimization_level={level} {os.environ.get('XLA_FLAGS', '')}"
        f" --xla_force_host_platform_device_count={os.environ['TEST_DEVICES']}"
    )


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--thorough"):
        for item in items:
            if "thorough" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes long: pytest --thorough"))
