"""Element-wise kernels that follow each other, made into one; which ones, `runtime.step.fusion` decides.

They may follow a product of matrices or a convolution, too, and then run over every part of it as soon as that is
complete.
"""

cimport numpy as cnp
from cpython.object cimport PyObject
from libc.string cimport memset

from runtime._ext.invoke cimport BoundKernel
from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels cimport convolution, matmul
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
from runtime._ext.kernels.finish cimport finishing_fn, trt_finish
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/fused.h":
    enum:
        TRT_FUSED_STEPS
        TRT_FUSED_INPUTS
        TRT_FUSED_BUFFERS
        TRT_FUSED_OUTPUTS

    ctypedef struct trt_fused_step:
        trt_unary_loop unary
        trt_binary_loop both
        trt_binary_loop right
        trt_binary_loop left
        int same_shapes
        int is_bias
        int a
        int b
        int output
        int buffer

    ctypedef struct trt_fused_params:
        int type
        int size
        int num_inputs
        int num_steps
        int num_outputs
        int last_read[48]
        int is_sum
        trt_fused_step steps[64]

    ctypedef struct trt_fused_finish:
        trt_finish base
        PyObject *inputs[48]
        int product
        unsigned long long reusable

    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)
    int trt_fused(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                  const trt_fused_params *params) except -1
    void trt_fused_finish_init(trt_fused_finish *finish, const trt_fused_params *params)

trt_share_by(parallel_ranges)

MAX_STEPS = TRT_FUSED_STEPS
MAX_INPUTS = TRT_FUSED_INPUTS
MAX_OUTPUTS = TRT_FUSED_OUTPUTS


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
    """Give each result that is no output a buffer until its last use; return False when there are too few."""
    cdef int last_use[TRT_FUSED_STEPS]
    cdef bint busy[TRT_FUSED_BUFFERS]
    cdef int k, i, operand
    memset(last_use, 0, sizeof(last_use))
    memset(busy, 0, sizeof(busy))
    for k in range(params.num_steps):
        for operand in (params.steps[k].a, params.steps[k].b):
            if operand < 0:
                last_use[-1 - operand] = k
    for k in range(params.num_steps):
        if params.steps[k].output < 0:
            for i in range(TRT_FUSED_BUFFERS):
                if not busy[i]:
                    busy[i] = True
                    params.steps[k].buffer = i
                    break
            else:
                return False
        for operand in (params.steps[k].a, params.steps[k].b):
            if operand < 0 and params.steps[-1 - operand].output < 0 and last_use[-1 - operand] == k:
                busy[params.steps[-1 - operand].buffer] = False
    return True


def fuse(steps, int num_inputs, outputs=None):
    """Return one kernel for some element-wise ones.

    Parameters
    ----------
    steps : sequence of (BoundKernel, int, int)
        What `element_type` gives one type for, and its operands: an input of the result, or -1 - an earlier step. A
        kernel of one operand takes it as the first. The last step makes a result.
    num_inputs : int
    outputs : sequence of int, optional
        The steps that make the results, rising, the last one among them; that one alone unless given.

    Returns
    -------
    CompiledKernel or None
        None when the steps need more intermediate results at once than there is room for.

    Raises
    ------
    ValueError
        If a step is not for fusing, or there are too many steps, inputs or outputs.
    """
    cdef trt_fused_params params
    if outputs is None:
        outputs = (len(steps) - 1,)
    return make_kernel(_fused, &params, sizeof(params)) if _describe(&params, steps, num_inputs, outputs) else None


cdef bint _describe(trt_fused_params *params, steps, int num_inputs, outputs) except -1:
    """Fill in the parameters; False when the steps need more intermediate results at once than there is room for."""
    cdef trt_fused_step *step
    cdef trt_binary_params *binary
    cdef BoundKernel bound
    cdef int k = 0, kind, found, operand
    memset(params, 0, sizeof(params[0]))
    if not 1 <= len(steps) <= TRT_FUSED_STEPS or not 1 <= num_inputs <= TRT_FUSED_INPUTS:
        raise ValueError(f"{len(steps)} steps over {num_inputs} inputs; at most {TRT_FUSED_STEPS} over "
                         f"{TRT_FUSED_INPUTS} can be one kernel")
    rising = sorted(set(outputs))
    if (not 1 <= len(rising) <= TRT_FUSED_OUTPUTS or rising != list(outputs) or rising[len(rising) - 1] != len(steps) - 1
            or rising[0] < 0):
        raise ValueError(f"outputs {list(outputs)} of {len(steps)} steps; rising numbers, {TRT_FUSED_OUTPUTS} at most, "
                         "are due, the last step's among them")
    params.num_inputs, params.num_steps, params.num_outputs = num_inputs, <int>len(steps), <int>len(outputs)
    for k in range(params.num_steps):
        params.steps[k].output = -1
    for k in range(params.num_outputs):
        params.steps[<int>outputs[k]].output = k
    k = 0
    for bound, a, b in steps:
        step = &params.steps[k]
        found = element_type(bound)
        if found < 0 or (k and found != params.type):
            raise ValueError(f"the kernel of node {bound.name} cannot be step {k} of one over type {params.type}")
        step.a, step.b = a, b if bound.code.num_inputs == 2 else a
        if not (-k <= step.a < num_inputs and -k <= step.b < num_inputs):
            raise ValueError(f"step {k} takes operands {a} and {b}, which are not there")
        for operand in (step.a, step.b):
            if operand >= 0:
                params.last_read[operand] = k
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
    params.is_sum = (params.num_steps == 1 and params.steps[0].a >= 0 and params.steps[0].b >= 0
                     and _adds(<BoundKernel>steps[0][0]))
    return _assign_buffers(params)


cdef bint _adds(BoundKernel bound) except -1:
    """Whether a kernel that can be a step adds its two operands."""
    return bound.node is not None and bound.node.op in ("Add", "AddV2", "AddN")


# Products


cdef struct _Finished:
    trt_fused_params steps
    finishing_fn product
    void *product_params
    int product_inputs
    int place                   # which input of the steps the product is


cdef int _finished(KernelCall *call) except -1:
    cdef _Finished *params = <_Finished *>call.params
    cdef trt_fused_finish finish
    cdef KernelCall product
    cdef int i, taken = params.product_inputs
    trt_fused_finish_init(&finish, &params.steps)
    finish.product, finish.reusable = params.place, 0
    for i in range(params.steps.num_inputs):
        if i == params.place:
            finish.inputs[i] = NULL
            continue
        finish.inputs[i] = call.inputs[taken]
        if taken < 32 and call.reusable >> taken & 1:
            finish.reusable |= <unsigned long long>1 << i
        taken += 1
    product.inputs, product.outputs = call.inputs, call.outputs
    product.num_inputs, product.num_outputs = params.product_inputs, 1
    product.reusable, product.params = 0, params.product_params
    return params.product(&product, &finish.base)


cdef finishing_fn _finishing(CompiledKernel kernel) noexcept:
    cdef finishing_fn found = matmul.finishing(kernel)
    return found if found != NULL else convolution.finishing(kernel)


def product_type(BoundKernel bound not None):
    """Return the numpy type number of a product that element-wise kernels can be joined to (see `finish`), else -1."""
    if bound.code.num_outputs != 1 or bound.code.derefs != NULL or bound.compiled is None:
        return -1
    return bound.code.output_types[0] if _finishing(bound.compiled) != NULL else -1


def finish(BoundKernel product not None, steps, int num_inputs, int place):
    """Return one kernel for a product and some element-wise ones behind it.

    Parameters
    ----------
    product : BoundKernel
        What `product_type` gives a type for. The kernel takes its inputs, then those of the steps but for the product.
    steps, num_inputs
        As for `fuse`.
    place : int
        Which of the steps' inputs the product is.

    Returns
    -------
    CompiledKernel or None
        As for `fuse`. The kernel declines where it is not made for the shapes: where the result of the steps is not of
        the product's shape, or where they take anything else than arrays of that shape, vectors along its last axis
        and single elements.

    Raises
    ------
    ValueError
        As for `fuse`; if the product is none, or of another type than the steps; if `place` is out of range.
    """
    cdef _Finished params
    cdef CompiledKernel kernel
    cdef int kind = product_type(product)
    if not 0 <= place < num_inputs:
        raise ValueError(f"the product is input {place} of {num_inputs}")
    if not _describe(&params.steps, steps, num_inputs, (len(steps) - 1,)):
        return None
    if kind < 0 or kind != params.steps.type:
        raise ValueError(f"the kernel of node {product.name} is no product of the type of the steps behind it")
    params.product = _finishing(product.compiled)
    params.product_params = product.compiled.params
    params.product_inputs, params.place = product.code.num_inputs, place
    kernel = make_kernel(_finished, &params, sizeof(params))
    kernel.memory = (kernel.memory, product.compiled)  # what product_params points to
    return kernel
