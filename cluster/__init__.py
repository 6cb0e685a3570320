"""Everything that knows Ray, Kubernetes or a terminal."""

import os

# Before torch loads OpenMP: idle threads sleep instead of spinning, so that workers that share a
# node's cores do not starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
