"""Element-wise kernels that follow each other, made into one; which ones, `runtime.step.fusion` decides."""

cimport numpy as cnp
from cpython.object cimport PyObject
from libc.string cimport memset

from runtime._ext.invoke cimport BoundKernel
from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels.activations cimport is_bias_add, trt_bias_params
from runtime._ext.kernels.elementwise cimport (
    ADD_N,
    BINARY,
    UNARY,
    kind_of,
    trt_binary_loop,
    trt_binary_params,
    trt_unary_loop,
    trt_unary_params,
)
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/fused.h":
    enum:
        TRT_FUSED_STEPS
        TRT_FUSED_INPUTS
        TRT_FUSED_BUFFERS

    ctypedef struct trt_fused_step:
        trt_unary_loop unary
        trt_binary_loop both
        trt_binary_loop right
        trt_binary_loop left
        int same_shapes
        int is_bias
        int a
        int b
        int buffer

    ctypedef struct trt_fused_params:
        int type
        int size
        int num_inputs
        int num_steps
        trt_fused_step steps[64]

    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)
    int trt_fused(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                  const trt_fused_params *params) except -1

trt_share_by(parallel_ranges)

MAX_STEPS = TRT_FUSED_STEPS
MAX_INPUTS = TRT_FUSED_INPUTS


cdef int _fused(KernelCall *call) except -1:
    return trt_fused(call.inputs, call.outputs, call.reusable, <const trt_fused_params *>call.params)


cdef int _element_type(CompiledKernel kernel, int num_inputs) except -2:
    """Return the one numpy type number that a kernel is about; -1 when it is not for fusing."""
    cdef int kind
    cdef trt_unary_params *unary
    cdef trt_binary_params *binary
    if kernel is None:
        return -1
    kind = kind_of(kernel)
    if kind == UNARY and num_inputs == 1:
        unary = <trt_unary_params *>kernel.params
        return unary.type if unary.type == unary.out_type else -1
    if num_inputs != 2:
        return -1
    if kind == BINARY or kind == ADD_N:
        binary = <trt_binary_params *>kernel.params
    elif is_bias_add(kernel) and not (<trt_bias_params *>kernel.params).channels_first:
        binary = &(<trt_bias_params *>kernel.params).add
    else:
        return -1
    if binary.widen != NULL:
        return -1
    return binary.type if binary.type == binary.out_type else -1


def element_type(BoundKernel bound not None):
    """Return the numpy type number of a kernel's elements if it can be a step of a fused one, else -1."""
    if bound.code.num_outputs != 1 or bound.code.derefs != NULL:
        return -1
    return _element_type(bound.compiled, bound.code.num_inputs)


def is_bias(BoundKernel bound not None):
    """Tell whether a kernel adds a bias: its right operand can then only be an input of the fused kernel."""
    return bound.compiled is not None and is_bias_add(bound.compiled)


def sum_type(BoundKernel bound not None):
    """Return the numpy type number of a kernel that adds up any number of arrays, else -1."""
    if bound.code.derefs != NULL or bound.compiled is None or kind_of(bound.compiled) != ADD_N:
        return -1
    return (<trt_binary_params *>bound.compiled.params).type


def partial_sum(BoundKernel bound not None, call):
    """Return the kernel that adds two of the arrays that another one (see `sum_type`) adds up.

    Parameters
    ----------
    call : callable
        Its Python definition.
    """
    return BoundKernel(bound.node, bound.name, call, bound.compiled, 2, bound.types, None, False)


cdef int _assign_buffers(trt_fused_params *params) except -1:
    """Give each result but the last one a buffer until its last use; return False when there are too few."""
    cdef int last_use[TRT_FUSED_STEPS]
    cdef bint busy[TRT_FUSED_BUFFERS]
    cdef int k, i, operand
    memset(last_use, 0, sizeof(last_use))
    memset(busy, 0, sizeof(busy))
    for k in range(params.num_steps):
        for operand in (params.steps[k].a, params.steps[k].b):
            if operand < 0:
                last_use[-1 - operand] = k
    for k in range(params.num_steps - 1):
        for i in range(TRT_FUSED_BUFFERS):
            if not busy[i]:
                busy[i] = True
                params.steps[k].buffer = i
                break
        else:
            return False
        for operand in (params.steps[k].a, params.steps[k].b):
            if operand < 0 and last_use[-1 - operand] == k:
                busy[params.steps[-1 - operand].buffer] = False
    return True


def fuse(steps, int num_inputs):
    """Return one kernel for some element-wise ones.

    Parameters
    ----------
    steps : sequence of (BoundKernel, int, int)
        What `element_type` gives one type for, and its operands: an input of the result, or -1 - an earlier step. A
        kernel of one operand takes it as the first. The last step makes the result.
    num_inputs : int

    Returns
    -------
    CompiledKernel or None
        None when the steps need more intermediate results at once than there is room for.

    Raises
    ------
    ValueError
        If a step is not for fusing, or there are too many steps or inputs.
    """
    cdef trt_fused_params params
    cdef trt_fused_step *step
    cdef trt_binary_params *binary
    cdef BoundKernel bound
    cdef int k = 0, kind, found
    memset(&params, 0, sizeof(params))
    if not 1 <= len(steps) <= TRT_FUSED_STEPS or not 1 <= num_inputs <= TRT_FUSED_INPUTS:
        raise ValueError(f"{len(steps)} steps over {num_inputs} inputs; at most {TRT_FUSED_STEPS} over "
                         f"{TRT_FUSED_INPUTS} can be one kernel")
    params.num_inputs, params.num_steps = num_inputs, <int>len(steps)
    for bound, a, b in steps:
        step = &params.steps[k]
        found = element_type(bound)
        if found < 0 or (k and found != params.type):
            raise ValueError(f"the kernel of node {bound.name} cannot be step {k} of one over type {params.type}")
        step.a, step.b = a, b if bound.code.num_inputs == 2 else a
        if not (-k <= step.a < num_inputs and -k <= step.b < num_inputs):
            raise ValueError(f"step {k} takes operands {a} and {b}, which are not there")
        params.type = found
        kind = kind_of(bound.compiled)
        if kind == UNARY:
            step.unary = (<trt_unary_params *>bound.compiled.params).loop
            params.size = (<trt_unary_params *>bound.compiled.params).size
        else:
            step.is_bias = is_bias_add(bound.compiled)
            binary = &(<trt_bias_params *>bound.compiled.params).add if step.is_bias else \
                <trt_binary_params *>bound.compiled.params
            step.both, step.right, step.left = binary.both, binary.right, binary.left
            step.same_shapes = kind == ADD_N or not binary.broadcasts
            params.size = binary.size
        k += 1
    if not _assign_buffers(&params):
        return None
    return make_kernel(_fused, &params, sizeof(params))
