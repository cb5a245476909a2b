"""The native kernel: one run on one core, in C++. This is its one door.

`find_kernel` says whether it is there, `explain_outside` whether it trains a run, `NativeRun` does so. What it computes
is what `fitting` computes in torch: equal to rounding, from the same draws. Why it is faster: kernel/passes.hpp.
"""

from vbx.heads.native.family import explain_outside
from vbx.heads.native.library import Kernel, find_kernel
from vbx.heads.native.running import NativeRun, predict_native

__all__ = ["Kernel", "NativeRun", "explain_outside", "find_kernel", "predict_native"]
