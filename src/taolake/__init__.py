"""Test-time Adaptive Optimization on the lakehouse: logged prompts in, a better model out, no labels.

The package is layered; imports go down only (docs/design.md, section 3). Start reading at `taolake.stages`.
"""

import os

# Other people's prompts pass through here: every library that reports home by default is told not to,
# before any of them is imported (docs/design.md, "telemetry").
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}.items():
    os.environ.setdefault(_name, _value)

# OpenMP threads spin while they wait. For long, on few cores shared with a JVM, they take the time of those that work;
# not at all, a small model waits for the kernel in each of its steps and is half as fast. 5,000 rounds are some 50
# microseconds (docs/log.md). libgomp heeds them before the policy, which is for the other OpenMP libraries.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "5000")}

__version__ = "0.1.0"
