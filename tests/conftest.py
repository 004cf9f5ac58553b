"""Two CPU devices, or TEST_DEVICES, so that multi-device code is always tested; everywhere the same examples.

What is compiled is kept in a folder of this run's, for its other tests, workers and commands, so that a program is
compiled once; the user's cache folder is left alone.

`pytest --hypothesis-profile=default` looks for new ones.
"""

import atexit
import os
import shutil
import tempfile

import hypothesis

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    f" --xla_force_host_platform_device_count={os.environ.get('TEST_DEVICES', '2')}"
)
if "TESTS_COMPILED" not in os.environ:  # workers and commands inherit it
    os.environ["TESTS_COMPILED"] = tempfile.mkdtemp(prefix="jaxclear-tests-")
    atexit.register(shutil.rmtree, os.environ["TESTS_COMPILED"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["TESTS_COMPILED"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# JAX reads the one above when it is imported, what is below when it looks for its devices.
from jaxclear.cpu_threads import threads_for

os.environ["NPROC"] = str(threads_for(int(os.environ.get("TEST_DEVICES", "2"))))

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")
