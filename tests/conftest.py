"""Two CPU devices, or TEST_DEVICES, so that multi-device code is always tested; everywhere the same examples.

What a process of the tests compiles it keeps for its other tests, in a folder of its own; commands under test keep
nothing, and the user's cache folder is left alone.

`pytest --hypothesis-profile=default` looks for new ones.
"""

import atexit
import os
import tempfile

import hypothesis

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    f" --xla_force_host_platform_device_count={os.environ.get('TEST_DEVICES', '2')}"
)
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# JAX reads the one above when it is imported, what is below when it looks for its devices.
import jax

from jaxclear.cpu_threads import threads_for

os.environ["NPROC"] = str(threads_for(int(os.environ.get("TEST_DEVICES", "2"))))

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")

_compiled = tempfile.TemporaryDirectory(prefix="jaxclear-tests-")
atexit.register(_compiled.cleanup)
jax.config.update("jax_enable_compilation_cache", True)
jax.config.update("jax_compilation_cache_dir", _compiled.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
