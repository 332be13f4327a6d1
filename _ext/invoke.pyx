"""Call one bound kernel and bring what it returns, or raises, into the executor's form.

A compiled kernel is tried first; where there is none, or it declines, the Python definition is called by vectorcall.
"""

import array

from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE

cimport numpy as cnp

from runtime._ext.float_errors cimport restore_warnings, silence_warnings
from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall
from runtime._ext.long_calls cimport COST_PRODUCT, call_watched, work_of
from runtime._ext.step_context cimport StepContext
from runtime._ext.variable cimport Variable

import numpy

from runtime._ext.errors import Error, FailedPrecondition, Internal, InvalidArgument, ResourceExhausted, Unimplemented

cdef extern from "Python.h":
    object PyObject_Vectorcall(PyObject *callable, PyObject **args, size_t nargsf, PyObject *kwnames)
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET

cdef extern from *:
    """
    #define RT_REFCNT(object) Py_REFCNT(object)
    #define RT_ARRAY_TYPE(array) PyArray_TYPE((PyArrayObject *)(array))
    #define RT_ARRAY_CHECK_EXACT(value) PyArray_CheckExact(value)
    #define RT_ARRAY_HAS_FLAGS(array, flags) PyArray_CHKFLAGS((PyArrayObject *)(array), flags)
    """
    Py_ssize_t RT_REFCNT(PyObject *value)
    int RT_ARRAY_TYPE(PyObject *value)
    bint RT_ARRAY_CHECK_EXACT(PyObject *value)
    bint RT_ARRAY_HAS_FLAGS(PyObject *value, int flags)

cnp.import_array()

# Definitions get through so many bytes in a moment, or in a few milliseconds where they decompose a matrix.
cdef double LEAST_BYTES = 32 << 10

cdef type _SCALAR = numpy.generic
cdef tuple _PLAIN_TYPES = (type(None), bool, int, float, complex, str, bytes)


# How numpy begins its refusals of arrays whose bytes, or elements, no 64 bits can count.
cdef tuple _TOO_LARGE = ("array is too big", "Maximum allowed dimension exceeded", "Maximum allowed size exceeded")


cdef class BoundKernel:
    """One node's kernel, bound: what an executor needs to call it.

    Parameters
    ----------
    node : Node
        Kept for traces.
    name : str
        The node's name behind those of the function calls around it, for messages.
    call : callable
        The Python definition.
    compiled : CompiledKernel or None
    num_inputs : int
    output_types : sequence of int
        numpy type number expected of each output; -1 where anything goes (references). An ``array.array('i')`` is kept
        and not copied, so that nodes can share it.
    derefs : bytes or None
        One byte per input, 1 where a `Variable` arrives and its value is wanted.
    needs_step : bool
        Whether `call` takes the step first.
    cost : int, optional
        How the time of `call` grows with its inputs, one of `runtime._ext.long_calls.COSTS`, where a cancelled step may
        leave a call behind: it changes nothing but what it returns, and does not take the step.
    counts : int
        Bit i: the integers of input i say how much is made.
    """

    def __cinit__(self, node, str name, call, CompiledKernel compiled, int num_inputs, output_types, bytes derefs,
                  bint needs_step, cost=None, counts=0):
        cdef Py_ssize_t i
        if derefs is not None and len(derefs) != num_inputs:
            raise ValueError(f"derefs has {len(derefs)} entries where the node has {num_inputs} inputs")
        self.node = node
        self.name = name
        self.call = call
        self.compiled = compiled
        self.derefs = derefs
        self.types = output_types if isinstance(output_types, array.array) else array.array("i", output_types)
        if self.types.typecode != "i":
            raise TypeError(f"output_types is an array of type {self.types.typecode!r}, not of int")
        self.code.fn = NULL if compiled is None else compiled.fn
        self.code.params = NULL if compiled is None else compiled.params
        self.code.call = <PyObject *>call
        self.code.name = <PyObject *>name
        self.code.num_inputs = num_inputs
        self.code.num_outputs = <int>len(self.types)
        self.code.flags = NEEDS_STEP if needs_step else 0
        self.code.derefs = NULL if derefs is None else <unsigned char *>PyBytes_AS_STRING(derefs)
        self.code.output_types = self.types.data.as_ints
        if cost is not None:
            if needs_step:
                raise ValueError(f"node {name}: a definition that takes the step cannot be left behind by it")
            self.pace.cost = cost
            self.pace.counts = counts
            # what a careful guess says before the first call: 100 MB/s, and 0.8 s for a decomposition of 1000 x 1000 floats
            self.pace.ns_per_unit = 0.1 if cost == COST_PRODUCT else 10.0
            self.pace.least = LEAST_BYTES ** 1.5 if cost == COST_PRODUCT else LEAST_BYTES
            self.code.pace = &self.pace

    def evaluate(self, args):
        """Call the Python definition once, outside of any step; for constants that are computed when compiling.

        Returns
        -------
        list
            One value per output.
        """
        if self.code.flags & NEEDS_STEP:
            raise ValueError(f"the kernel of node {self.name} needs a running step")
        cdef int i
        cdef PyObject **made = <PyObject **>PyMem_Calloc(max(self.code.num_outputs, 1), sizeof(PyObject *))
        if made == NULL:
            raise MemoryError()
        former = silence_warnings()
        try:
            store_result(&self.code, self.call(*args), made)
            return [<object>made[i] for i in range(self.code.num_outputs)]
        finally:
            restore_warnings(former)
            release_outputs(&self.code, made)
            PyMem_Free(made)


cdef int invoke(Code *code, StepContext step, PyObject **inputs, PyObject **outputs,
                unsigned int reusable) except -1:
    cdef int taken = 0
    cdef int i
    if code.derefs == NULL:
        return _invoke_values(code, step, inputs, outputs, reusable)
    try:
        while taken < code.num_inputs:
            if code.derefs[taken]:
                inputs[taken] = dereference(inputs[taken])
            taken += 1
        return _invoke_values(code, step, inputs, outputs, reusable)
    finally:
        for i in range(taken):
            if code.derefs[i]:
                Py_XDECREF(inputs[i])


cdef int _invoke_values(Code *code, StepContext step, PyObject **inputs, PyObject **outputs,
                        unsigned int reusable) except -1:
    cdef KernelCall call
    if code.fn != NULL:
        call.inputs, call.outputs = inputs, outputs
        call.num_inputs, call.num_outputs = code.num_inputs, code.num_outputs
        call.reusable, call.params = reusable, code.params
        if code.fn(&call) == 0:
            return 0
    return invoke_python(code, step, inputs, outputs)


cdef int invoke_python(Code *code, StepContext step, PyObject **inputs, PyObject **outputs) except -1:
    cdef double work
    if code.pace != NULL:
        work = work_of(code.pace, inputs, code.num_inputs)
        if work >= code.pace.least:
            return store_result(code, call_watched(code.pace, work, <object>code.call, <str>code.name, step, inputs,
                                                   code.num_inputs), outputs)
    if code.flags & NEEDS_STEP:
        (inputs - 1)[0] = <PyObject *>step
        return store_result(code, PyObject_Vectorcall(code.call, inputs - 1,
                                                      (code.num_inputs + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL),
                            outputs)
    return store_result(code, PyObject_Vectorcall(code.call, inputs,
                                                  code.num_inputs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL), outputs)


cdef int store_result(Code *code, object result, PyObject **outputs) except -1:
    cdef int count = code.num_outputs
    cdef int i
    cdef PyObject *raw = <PyObject *>result
    if count == 1 and RT_ARRAY_CHECK_EXACT(raw) and (code.output_types[0] == RT_ARRAY_TYPE(raw)
                                                   or code.output_types[0] < 0):
        Py_INCREF(result)
        outputs[0] = raw
        return 0
    if count == 0:
        return 0
    cdef bint is_list = PyList_CheckExact(result)
    if is_list or PyTuple_CheckExact(result):
        if (PyList_GET_SIZE(result) if is_list else PyTuple_GET_SIZE(result)) != count:
            raise Internal(f"the kernel returned {len(result)} outputs where the node has {count}")
        for i in range(count):
            outputs[i] = _output(PyList_GET_ITEM(result, i) if is_list else PyTuple_GET_ITEM(result, i),
                                 code.output_types[i], i)
        return 0
    if count != 1:
        raise Internal(f"the kernel returned a {type(result).__name__} where a sequence of {count} outputs was due")
    outputs[0] = _output(raw, code.output_types[0], 0)
    return 0


cdef PyObject *_output(PyObject *raw, int expected, int index) except NULL:
    """Return a new reference to the array that a kernel's result stands for."""
    cdef object value = <object>raw
    if RT_ARRAY_CHECK_EXACT(raw):
        if expected >= 0 and RT_ARRAY_TYPE(raw) != expected and not cnp.PyArray_EquivTypenums(RT_ARRAY_TYPE(raw),
                                                                                            expected):
            raise Internal(f"the kernel returned {value.dtype} for output {index}, which is declared as "
                           f"{_dtype_name(expected)}")
    elif expected == cnp.NPY_OBJECT:
        if not isinstance(value, numpy.ndarray):  # numpy hands out the element of a 0-d object array itself
            element = value
            value = numpy.empty((), dtype=object)
            value[()] = element
    elif isinstance(value, _SCALAR):
        value = numpy.asarray(value)
        return _output(<PyObject *>value, expected, index)
    elif isinstance(value, _PLAIN_TYPES):
        raise Internal(f"the kernel returned a {type(value).__name__} for output {index} where an array was due")
    Py_INCREF(value)
    return <PyObject *>value


cdef str _dtype_name(int type_number):
    """Return the name of a numpy type number, user types included."""
    return str(<object>cnp.PyArray_DescrFromType(type_number))


cdef void release_outputs(Code *code, PyObject **outputs) noexcept:
    cdef int i
    cdef PyObject *value
    for i in range(code.num_outputs):
        value = outputs[i]
        outputs[i] = NULL
        Py_XDECREF(value)


cdef unsigned int reusable_inputs(PyObject **inputs, unsigned int candidates) noexcept:
    cdef unsigned int found = 0
    cdef unsigned int bit = 1
    cdef int i = 0
    while candidates:
        if (candidates & 1 and inputs[i] != NULL and RT_REFCNT(inputs[i]) == 1 and RT_ARRAY_CHECK_EXACT(inputs[i])
                and RT_ARRAY_HAS_FLAGS(inputs[i], cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_WRITEABLE)):
            found |= bit
        candidates >>= 1
        bit <<= 1
        i += 1
    return found


cdef PyObject *dereference(PyObject *variable) except NULL:
    cdef object value
    if isinstance(<object>variable, Variable):
        value = (<Variable>variable).current()
        if value is None:
            raise FailedPrecondition(f"Attempting to use uninitialized value {(<Variable>variable).name}")
    else:  # a reference output that is fed is an array already
        value = <object>variable
    Py_INCREF(value)
    return <PyObject *>value


cdef object named_error(object error, str name):
    """Return `error` with the node's name appended in TensorFlow's form, as a new exception of the same class.

    A new one, because an error object may be shared: a queue hands the same one to every waiter. Errors of other
    trees become the nearest class of ours; exceptions that are no errors (KeyboardInterrupt) stay as they are.
    """
    if not isinstance(error, Exception):
        return error
    cause = error.__cause__
    if not isinstance(error, Error):
        cause = error
        if isinstance(error, RecursionError):
            error = ResourceExhausted("function calls nest too deeply; a library function must not call itself "
                                      "without an end")
        elif isinstance(error, MemoryError):
            error = ResourceExhausted(f"out of memory: {error}")
        elif isinstance(error, NotImplementedError):
            error = Unimplemented(str(error))
        elif isinstance(error, ValueError):
            text = str(error)
            error = ResourceExhausted(text) if text.startswith(_TOO_LARGE) else InvalidArgument(text)
        else:
            error = Internal(f"{type(error).__name__}: {error}")
    message = error.message
    if name is None or "[[{{node " in message:
        return error
    cls = type(error)
    named = cls.__new__(cls)
    named.__dict__.update(error.__dict__)
    named.message = f"{message}\n\t [[{{{{node {name}}}}}]]"
    named.args = (named.message, *error.args[1:])
    named.__cause__ = cause
    named.__traceback__ = error.__traceback__ if cause is None else None
    return named


cdef str op_of(BoundKernel kernel):
    return getattr(kernel.node, "op", kernel.name)


def name_error(error, str name):
    """Return the error to raise for one that came out of a node: its name appended once, as a class of ours.

    Parameters
    ----------
    error : BaseException
    name : str

    Returns
    -------
    BaseException
        A new `Error` of the same class, or of the nearest one for exceptions from elsewhere; `error` itself when it
        carries a node's name already or is no `Exception`.
    """
    return named_error(error, name)
