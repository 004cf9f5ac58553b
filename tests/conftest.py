"""Eight CPU devices, or TEST_DEVICES, so that multi-device code is always tested; everywhere the same examples.

Nothing compiled is kept: commands under test leave the user's cache folder alone. Most of the time goes into compiling,
so LLVM optimises at its level 2, a fifth less work than at XLA's 3; what optimisation.py compares sees to it that the
numbers stay those of 3. `XLA_FLAGS=--xla_backend_optimization_level=3 pytest` has all compiled as users have it.

`pytest --hypothesis-profile=default` looks for new ones.
"""

import os

import hypothesis

os.environ["TEST_DEVICES"] = os.environ.get("TEST_DEVICES", "8")
os.environ["XLA_FLAGS"] = (  # of a flag that is there twice the last one counts
    f"--xla_backend_optimization_level=2 {os.environ.get('XLA_FLAGS', '')}"
    f" --xla_force_host_platform_device_count={os.environ['TEST_DEVICES']}"
)
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# JAX reads the one above when it is imported, what is below when it looks for its devices.
from jaxclear.cpu_threads import threads_for

os.environ["NPROC"] = str(threads_for(int(os.environ["TEST_DEVICES"])))

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")
