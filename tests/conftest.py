"""Two CPU devices, or TEST_DEVICES, so that multi-device code is always tested; everywhere the same examples.

Nothing compiled is kept: commands under test leave the user's cache folder alone.

`pytest --hypothesis-profile=default` looks for new ones.
"""

import os

import hypothesis

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    f" --xla_force_host_platform_device_count={os.environ.get('TEST_DEVICES', '2')}"
)
# See jaxclear.devices.too_few_threads.
threads = int(os.environ.get("TEST_DEVICES", "2")) + 2, int(os.environ.get("NPROC", "0")), os.cpu_count() or 1
os.environ["NPROC"] = str(max(threads))
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.load_profile("repeatable")
