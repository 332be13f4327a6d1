"""Run a step that has no dead values and waits for nothing: one instruction after the other.

The compiler (`runtime.step.compile`) numbers the values of a step: the feeds first, then every output of every node;
constants have negative numbers. `Program` lays them out in the cells of a frame, with a cell given to the next value as
soon as the former one has died. A run takes a frame from the program's pool, so several threads may run one program
at once; there is no queue and no lock.
"""

import time

from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF

cimport numpy as cnp

from runtime._ext.branches cimport make_guards
from runtime._ext.float_errors cimport restore_warnings, silence_warnings
from runtime._ext.invoke cimport (
    INPUT_HEADROOM,
    BoundKernel,
    dereference,
    invoke,
    invoke_python,
    named_error,
    op_of,
    reusable_inputs,
)
from runtime._ext.kernel_abi cimport KernelCall
from runtime._ext.predicates cimport truth_of
from runtime._ext.running_step cimport (
    Former,
    count_work,
    current_step,
    enter_step,
    leave_step,
    memory_error,
    spare_arrays,
    trt_let_go,
    trt_spares,
    trt_step,
)
from runtime._ext.step_context cimport StepContext

import numpy

from runtime._ext.dead_values import DeadFetch

cnp.import_array()

cdef trt_spares *_SPARES = spare_arrays()

cdef extern from *:
    """
    #define RT_LIST_ITEMS(list) (((PyListObject *)(list))->ob_item)
    /* The items have been taken over: forget them without releasing them. */
    #define RT_LIST_FORGET_ITEMS(list) Py_SET_SIZE((PyVarObject *)(list), 0)
    #define RT_FAST_ITEMS(sequence) PySequence_Fast_ITEMS(sequence)
    #define RT_ARRAY_TYPE(array) PyArray_TYPE((PyArrayObject *)(array))
    #define RT_ARRAY_CHECK_EXACT(value) PyArray_CheckExact(value)
    #define RT_ARRAY_NATIVE(array) PyArray_ISNOTSWAPPED((PyArrayObject *)(array))
    """
    PyObject **RT_LIST_ITEMS(PyObject *value)
    void RT_LIST_FORGET_ITEMS(PyObject *value)
    PyObject **RT_FAST_ITEMS(PyObject *value)
    int RT_ARRAY_TYPE(PyObject *array)
    bint RT_ARRAY_CHECK_EXACT(PyObject *value)
    bint RT_ARRAY_NATIVE(PyObject *array)

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()
    object PySequence_Fast(object value, const char *message)

cdef enum:
    # Frames kept for the next runs of a program: more than run at once on a usual machine, and they hold no tensors.
    MAX_POOLED_FRAMES = 8


cdef class Program:
    """A compiled straight-line step or function body.

    Parameters
    ----------
    kernels : sequence of BoundKernel
        In the order in which they run.
    inputs, outputs : sequence of sequence of int
        For each kernel the numbers of the values that it takes and makes. Numbers below ``len(feed_types)`` are feeds;
        ``-1 - k`` is constant ``k``.
    num_values : int
        One more than the largest number.
    constants : sequence of ndarray
        Their arrays should not be writable.
    feed_types : sequence of int
        numpy type number of each feed; a feed of another type, or with swapped bytes, goes through `adapt_feed`.
    fetches : sequence of int
        Numbers of the values to return; duplicates are fine.
    fetch_names : sequence of (str or None)
        For a value that is a reference, the name used in the error when it is uninitialised; else None.
    adapt_feed : callable, optional
        ``adapt_feed(position, value)`` returns the array to use, or raises.
    path : str
        Names of the calls around this program, for traces.
    guards : sequence of sequence of (int, int, int, str), optional
        For each kernel under which conditions it runs: the number of a predicate, which of how many sides it must
        choose, and the name for errors. A negative side says that the value has only to be there, as that of a `MERGE`
        may not be. Predicates follow those that they depend on. What a kernel makes is missing when it does not run.

    Raises
    ------
    ValueError
        If a kernel takes a value that nothing before it makes.
    """

    def __cinit__(self, kernels, inputs, outputs, int num_values, constants, feed_types, fetches, fetch_names,
                  adapt_feed=None, str path="", guards=None):
        self._kernels = list(kernels)
        self._constants = tuple(constants)
        self._fetch_names = tuple(fetch_names)
        self._adapt_feed = adapt_feed
        self.path = path
        self.num_instructions = <int>len(self._kernels)
        self.num_feeds = <int>len(feed_types)
        self.num_fetches = <int>len(fetches)
        if len(self._fetch_names) != self.num_fetches:
            raise ValueError(f"{len(self._fetch_names)} fetch names for {self.num_fetches} fetches")
        cdef int num_constants = <int>len(self._constants)
        cdef int count = 0
        cdef int i, j, value, max_outputs = 0
        cdef BoundKernel kernel
        for i in range(self.num_instructions):
            kernel = self._kernels[i]
            if len(inputs[i]) != kernel.code.num_inputs or len(outputs[i]) != kernel.code.num_outputs:
                raise ValueError(f"node {kernel.name}: {len(inputs[i])} inputs and {len(outputs[i])} outputs wired, "
                                 f"{kernel.code.num_inputs} and {kernel.code.num_outputs} needed")
            # an input and an output each may end in the list of values that die here
            count += 2 * (kernel.code.num_inputs + kernel.code.num_outputs)
            if guards is not None:
                count += <int>len(guards[i])
            self._max_inputs = max(self._max_inputs, kernel.code.num_inputs)
            max_outputs = max(max_outputs, kernel.code.num_outputs)
        self._scratch = INPUT_HEADROOM + self._max_inputs + max_outputs
        self._code = <Instruction *>PyMem_Calloc(max(self.num_instructions, 1), sizeof(Instruction))
        self._indices = <int *>PyMem_Calloc(max(count, 1), sizeof(int))
        self._feed_types = <int *>PyMem_Calloc(max(self.num_feeds, 1), sizeof(int))
        self._fetches = <int *>PyMem_Calloc(max(self.num_fetches, 1), sizeof(int))
        self._leftovers = <int *>PyMem_Calloc(max(self.num_feeds + self.num_fetches, 1), sizeof(int))
        if not (self._code and self._indices and self._feed_types and self._fetches and self._leftovers):
            raise MemoryError()
        for i in range(self.num_feeds):
            self._feed_types[i] = feed_types[i]
        cdef int *last_use = <int *>PyMem_Malloc(max(num_values, 1) * sizeof(int))
        cdef int *cells = <int *>PyMem_Malloc(max(num_values, 1) * sizeof(int))
        cdef int *free_cells = <int *>PyMem_Malloc(max(num_values, 1) * sizeof(int))
        try:
            if not (last_use and cells and free_cells):
                raise MemoryError()
            self._assign_cells(inputs, outputs, fetches, guards, num_values, num_constants, last_use, cells, free_cells)
            if guards is not None:
                self._place_guards(guards, num_constants, cells)
        finally:
            PyMem_Free(last_use)
            PyMem_Free(cells)
            PyMem_Free(free_cells)

    def __dealloc__(self):
        cdef Frame *frame
        while self._free != NULL:
            frame = self._free
            self._free = frame.next
            PyMem_Free(frame)
        PyMem_Free(self._code)
        PyMem_Free(self._indices)
        PyMem_Free(self._feed_types)
        PyMem_Free(self._fetches)
        PyMem_Free(self._leftovers)

    cdef int _assign_cells(self, inputs, outputs, fetches, guards, int num_values, int num_constants, int *last_use,
                           int *cells, int *free_cells) except -1:
        """Give every value a cell from its birth to its last use, and fill the instructions."""
        cdef int num_free = 0, num_slots = self.num_feeds
        cdef int i, j, k, value, uses
        cdef int *next_index = self._indices
        cdef Instruction *op
        cdef BoundKernel kernel
        for value in range(num_values):
            last_use[value] = -1
            cells[value] = value if value < self.num_feeds else -1
        for i in range(self.num_instructions):
            for value in inputs[i]:
                if value >= 0:
                    if value >= num_values:
                        raise ValueError(f"value {value} is outside the {num_values} values of the program")
                    last_use[value] = i
            for guard in guards[i] if guards is not None else ():
                value = guard[0]
                if value >= num_values:
                    raise ValueError(f"value {value} is outside the {num_values} values of the program")
                if value >= 0:
                    last_use[value] = i
        for value in fetches:
            if value >= num_values:
                raise ValueError(f"value {value} is outside the {num_values} values of the program")
            if value >= 0:
                last_use[value] = self.num_instructions
        for i in range(self.num_instructions):
            kernel = self._kernels[i]
            op = &self._code[i]
            op.code = kernel.code
            op.inputs, next_index = next_index, next_index + op.code.num_inputs
            op.outputs, next_index = next_index, next_index + op.code.num_outputs
            op.clears = next_index
            j = 0
            for value in inputs[i]:
                if value < 0:
                    if -1 - value >= num_constants:
                        raise ValueError(f"node {kernel.name} takes constant {-1 - value} of {num_constants}")
                    op.inputs[j] = value  # placed once the number of slots is known
                elif cells[value] < 0:
                    raise ValueError(f"node {kernel.name} takes value {value}, which nothing before it makes")
                else:
                    op.inputs[j] = cells[value]
                j += 1
            j = 0
            for value in outputs[i]:
                if not self.num_feeds <= value < num_values or cells[value] >= 0:
                    raise ValueError(f"node {kernel.name} makes value {value} a second time, or out of range")
                if num_free:
                    num_free -= 1
                    cells[value] = free_cells[num_free]
                else:
                    cells[value] = num_slots
                    num_slots += 1
                op.outputs[j] = cells[value]
                j += 1
            # after the outputs have their cells: inputs and outputs of one instruction never share one
            j = 0
            for value in inputs[i]:
                if value >= 0 and last_use[value] == i:
                    uses = 0
                    for k in range(op.num_clears):
                        uses += op.clears[k] == cells[value]
                    if not uses:
                        op.clears[op.num_clears] = cells[value]
                        op.num_clears += 1
                        free_cells[num_free] = cells[value]
                        num_free += 1
                    if j < 32 and (op.code.derefs == NULL or not op.code.derefs[j]):
                        op.last_uses |= <unsigned int>1 << j
                        for k in range(op.code.num_inputs):
                            if k != j and op.inputs[k] == op.inputs[j]:  # the kernel sees the array twice
                                op.last_uses &= ~(<unsigned int>1 << j)
                j += 1
            for guard in guards[i] if guards is not None else ():
                value = guard[0]
                if value >= 0 and last_use[value] == i:
                    uses = 0
                    for k in range(op.num_clears):
                        uses += op.clears[k] == cells[value]
                    if not uses:
                        op.clears[op.num_clears] = cells[value]
                        op.num_clears += 1
                        free_cells[num_free] = cells[value]
                        num_free += 1
            for value in outputs[i]:
                if last_use[value] < 0:
                    op.clears[op.num_clears] = cells[value]
                    op.num_clears += 1
                    free_cells[num_free] = cells[value]
                    num_free += 1
            next_index += op.num_clears
        self._num_slots = num_slots
        for i in range(self.num_instructions):
            op = &self._code[i]
            for j in range(op.code.num_inputs):
                if op.inputs[j] < 0:
                    op.inputs[j] = num_slots - 1 - op.inputs[j]
        for value in range(self.num_feeds):
            if last_use[value] < 0 or last_use[value] == self.num_instructions:
                self._leftovers[self._num_leftovers] = value
                self._num_leftovers += 1
        j = 0
        for value in fetches:
            if value < 0:
                if -1 - value >= num_constants:
                    raise ValueError(f"fetch {j} takes constant {-1 - value} of {num_constants}")
                self._fetches[j] = num_slots - 1 - value
            elif cells[value] < 0:
                raise ValueError(f"fetch {j} takes value {value}, which nothing makes")
            else:
                self._fetches[j] = cells[value]
                if value >= self.num_feeds:
                    self._leftovers[self._num_leftovers] = cells[value]
                    self._num_leftovers += 1
            j += 1
        return 0

    cdef int _place_guards(self, guards, int num_constants, int *cells) except -1:
        """Put a guard before the first of all instructions in a row that share a condition."""
        cdef list found = [], clears = []
        cdef set occupied = set(range(self.num_feeds))
        cdef tuple former = (), path
        cdef int i, j, k, depth
        cdef Instruction *op
        cdef list paths = [tuple(path_) for path_ in guards]
        if len(paths) != self.num_instructions:
            raise ValueError(f"guards for {len(paths)} of {self.num_instructions} kernels")
        for i in range(self.num_instructions):
            path, op = paths[i], &self._code[i]
            op.first_guard = <int>len(found)
            depth = 0
            while depth < min(len(former), len(path)) and former[depth] == path[depth]:
                depth += 1
            while depth < len(path):
                value, choice, count, name = path[depth]
                if not -num_constants <= value or (value >= 0 and cells[value] < 0):
                    raise ValueError(f"kernel {i} depends on value {value}, which nothing before it makes")
                depth += 1
                j = i + 1
                while j < self.num_instructions and paths[j][:depth] == path[:depth]:
                    j += 1
                dying = {self._code[k].clears[m] for k in range(i, j) for m in range(self._code[k].num_clears)}
                found.append((cells[value] if value >= 0 else self._num_slots - 1 - value, choice, count, j, name))
                clears.append(sorted(dying & occupied))
            op.last_guard = <int>len(found)
            occupied.update([op.outputs[k] for k in range(op.code.num_outputs)])
            occupied.difference_update([op.clears[k] for k in range(op.num_clears)])
            former = path
        self._guards = make_guards(found, clears)
        return 0

    def run(self, StepContext step, feeds):
        """Run to the end in the calling thread.

        Parameters
        ----------
        feeds : sequence of ndarray
            One per feed; kept alive by the caller, never changed.

        Returns
        -------
        list of ndarray
            One per fetch. An array may be a feed, a constant or the current value of a variable: not to be written.

        Raises
        ------
        DeadFetch
            If a fetched value was not made, because of the side that some predicate chose.
        Error
            The first failing node's, with the node's name; or the one that the step was cancelled with.
        """
        feeds = PySequence_Fast(feeds, "feeds must be a sequence of arrays")
        cdef int i
        cdef PyObject *value
        cdef PyObject **items = RT_FAST_ITEMS(<PyObject *>feeds)
        if len(feeds) != self.num_feeds:
            raise ValueError(f"{len(feeds)} feeds given where the step has {self.num_feeds}")
        cdef list adapted = None
        for i in range(self.num_feeds):
            value = items[i]
            if not (RT_ARRAY_CHECK_EXACT(value) and RT_ARRAY_TYPE(value) == self._feed_types[i]
                    and RT_ARRAY_NATIVE(value)):
                if self._adapt_feed is None:
                    raise TypeError(f"feed {i} is a {type(<object>value).__name__} of a type that it cannot have")
                if adapted is None:
                    adapted = list(feeds)
                adapted[i] = self._adapt_feed(i, <object>value)
        if adapted is not None:
            items = RT_FAST_ITEMS(<PyObject *>adapted)
        cdef Former former_step = enter_step(step.shared)
        try:
            former = silence_warnings()
            try:
                return self.execute(step, items, False)
            finally:
                restore_warnings(former)
        finally:
            leave_step(former_step)

    def call(self, StepContext step, args):
        """Run inside a step, without a check of the feeds' types: for function bodies, whose arguments the graph typed."""
        args = PySequence_Fast(args, "args must be a sequence of values")
        if len(args) != self.num_feeds:
            raise ValueError(f"{len(args)} arguments given where the function has {self.num_feeds}")
        if current_step() == step.shared:
            return self.execute(step, RT_FAST_ITEMS(<PyObject *>args), False)
        cdef Former former = enter_step(step.shared)
        try:
            return self.execute(step, RT_FAST_ITEMS(<PyObject *>args), False)
        finally:
            leave_step(former)

    cdef list execute(self, StepContext step, PyObject **args, bint moved):
        cdef int i
        cdef bint succeeded = False
        cdef list result
        cdef Frame *frame
        if self.traced is not None and step.trace is not None:
            return self._trace(step, args, moved)
        try:
            frame = self._take_frame()
        except BaseException:
            if moved:
                for i in range(self.num_feeds):
                    Py_XDECREF(args[i])
            raise
        cdef PyObject **slots = frame.cells + self._scratch
        for i in range(self.num_feeds):
            if not moved:
                Py_XINCREF(args[i])
            slots[i] = args[i]
        try:
            self._run(step, frame.cells + INPUT_HEADROOM, frame.cells + INPUT_HEADROOM + self._max_inputs, slots)
            result = self._collect(slots)
            succeeded = True
        finally:
            self._give_frame(frame, succeeded)
        return result

    cdef list _trace(self, StepContext step, PyObject **args, bint moved):
        """Run what shows every node of the graph."""
        cdef int i
        cdef list values = [<object>args[i] for i in range(self.num_feeds)]
        if moved:
            for i in range(self.num_feeds):
                Py_XDECREF(args[i])
        if callable(self.traced):
            self.traced = self.traced()
        return self.traced.call(step, values)

    cdef int _run(self, StepContext step, PyObject **inputs, PyObject **outputs, PyObject **slots) except -1:
        cdef int pc = 0, i, target
        cdef trt_step *shared = step.shared
        cdef bint traced = step.trace is not None
        cdef object started = None
        cdef Instruction *op = self._code
        cdef KernelCall call
        cdef PyObject *value
        try:
            Py_EnterRecursiveCall(" in a step")
            try:
                while pc < self.num_instructions:
                    if step.cancelled:
                        raise step.error
                    op = &self._code[pc]
                    if op.first_guard != op.last_guard:
                        target = self._guards.check(op.first_guard, op.last_guard, slots)
                        if target >= 0:
                            pc = target
                            continue
                    for i in range(op.code.num_inputs):
                        inputs[i] = slots[op.inputs[i]]
                    if traced:
                        started = time.time_ns()
                    if op.code.fn != NULL:
                        call.reusable = reusable_inputs(inputs, op.last_uses) if op.last_uses else 0
                        if op.code.derefs == NULL:
                            call.inputs, call.outputs = inputs, outputs
                            call.num_inputs, call.num_outputs = op.code.num_inputs, op.code.num_outputs
                            call.params = op.code.params
                            if op.code.fn(&call):
                                invoke_python(&op.code, step, inputs, outputs)
                        else:
                            invoke(&op.code, step, inputs, outputs, call.reusable)
                    elif op.code.derefs == NULL:
                        invoke_python(&op.code, step, inputs, outputs)
                    else:
                        invoke(&op.code, step, inputs, outputs, 0)
                    if traced:
                        self._record(step, op, pc, outputs, started)
                    for i in range(op.code.num_outputs):
                        slots[op.outputs[i]] = outputs[i]
                        outputs[i] = NULL
                    for i in range(op.num_clears):
                        value = slots[op.clears[i]]
                        slots[op.clears[i]] = NULL
                        trt_let_go(_SPARES, value)
                    pc += 1
                    count_work(shared, 1)
                # the last kernel may have stopped halfway
                if step.cancelled:
                    raise step.error
            finally:
                Py_LeaveRecursiveCall()
        except BaseException as error:
            for i in range(op.code.num_outputs):
                value = outputs[i]
                outputs[i] = NULL
                Py_XDECREF(value)
            if step.cancelled:
                raise step.error from None
            if pc >= self.num_instructions:
                raise
            if step.shared.refused and isinstance(error, MemoryError):
                error = memory_error(step.shared, op_of(<BoundKernel>self._kernels[pc]))
            raise named_error(error, <str>op.code.name)
        return 0

    cdef int _record(self, StepContext step, Instruction *op, int index, PyObject **outputs, object started) except -1:
        cdef BoundKernel kernel = self._kernels[index]
        step.trace.add(self.path, kernel.node, started, started, time.time_ns(),
                       [<object>outputs[i] for i in range(op.code.num_outputs)])
        return 0

    cdef list _collect(self, PyObject **slots):
        cdef list result = PyList_New(self.num_fetches)
        cdef int i
        cdef PyObject *value
        for i in range(self.num_fetches):
            value = slots[self._fetches[i]]
            if value == NULL:
                raise DeadFetch(i)
            if self._fetch_names[i] is None:
                Py_XINCREF(value)
            else:
                try:
                    value = dereference(value)
                except BaseException as error:
                    raise named_error(error, self._fetch_names[i]) from None
            PyList_SET_ITEM(result, i, <object>value)  # takes over the reference
        return result

    cdef Frame *_take_frame(self) except NULL:
        cdef Frame *frame = self._free
        cdef Py_ssize_t cells
        cdef int i
        if frame != NULL:
            self._free = frame.next
            self._num_free -= 1
            return frame
        cells = self._scratch + self._num_slots + len(self._constants)
        frame = <Frame *>PyMem_Calloc(1, sizeof(Frame) + cells * sizeof(PyObject *))
        if frame == NULL:
            raise MemoryError()
        for i in range(<int>len(self._constants)):
            frame.cells[self._scratch + self._num_slots + i] = <PyObject *>self._constants[i]
        return frame

    cdef void _give_frame(self, Frame *frame, bint succeeded) noexcept:
        """Release what the frame still holds and keep it for the next run."""
        cdef PyObject **slots = frame.cells + self._scratch
        cdef PyObject *value
        cdef int i, cell
        for i in range(self._num_leftovers if succeeded else self._num_slots):
            cell = self._leftovers[i] if succeeded else i
            value = slots[cell]
            slots[cell] = NULL
            trt_let_go(_SPARES, value)
        if self._num_free < MAX_POOLED_FRAMES:
            frame.next = self._free
            self._free = frame
            self._num_free += 1
        else:
            PyMem_Free(frame)


def run_while(Program condition not None, Program body not None, StepContext step not None, args):
    """Run ``while condition(*args): args = body(*args)`` and return the last args.

    Parameters
    ----------
    condition, body : Program
        `condition` has one fetch; `body` as many fetches as feeds.
    args : sequence
        First values of the loop variables.

    Returns
    -------
    list

    Notes
    -----
    The values of one iteration are handed over to the next, so that kernels may reuse their memory.
    """
    cdef list values = list(args)
    cdef list verdict, results
    if condition.num_fetches != 1 or not len(values) == condition.num_feeds == body.num_feeds == body.num_fetches:
        raise ValueError(f"a loop over {len(values)} values has a condition from {condition.num_feeds} to "
                         f"{condition.num_fetches} and a body from {body.num_feeds} to {body.num_fetches} values")
    while True:
        step.check()
        verdict = condition.execute(step, RT_LIST_ITEMS(<PyObject *>values), False)
        if not truth_of(verdict[0]):
            return values
        # the list gives its references away and is empty afterwards, whatever happens in the body
        RT_LIST_FORGET_ITEMS(<PyObject *>values)
        results = body.execute(step, RT_LIST_ITEMS(<PyObject *>values), True)
        values = results
        count_work(step.shared, 2)  # what a turn costs by itself; the instructions count themselves
