from typing import final

from runtime._ext.kernel_abi import CompiledKernel

MERGE: CompiledKernel
PASS: CompiledKernel

@final
class GuardTable: ...
