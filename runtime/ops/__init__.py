"""Op definitions and kernels by family, one registry.

`opdef` says what an op type is (inputs, outputs, attrs), `registry` what runs it; the family modules are loaded by
`registry.load` when the first graph is compiled.
"""
