"""Run a step by dataflow: a node runs when its inputs have arrived, in whatever frame and iteration they are.

One thread at a time drives a run. A kernel that waits is started and left alone; whoever completes it puts the result
into the run's inbox, and when nobody drives, has the run driven on in another thread (`StepContext.hand_over`). All
of the bookkeeping happens with the GIL held and without calling back into Python between a check and the change that
depends on it, so it needs no lock of its own.

Deadness, frames and iterations follow TensorFlow's executor: a value is dead when the branch that it comes from was
not taken; loops run in frames, opened by Enter in one iteration of the frame around; NextIteration goes to the next
iteration; an iteration ends when nothing in it is outstanding and the one before it has ended.
"""

import logging
import time

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF, Py_XINCREF

cimport numpy as cnp

from runtime._ext.dataflow_delivery cimport Delivery, Ready
from runtime._ext.dataflow_frames cimport DEAD, NOT_THERE, Iteration, make_store
from runtime._ext.dataflow_plan cimport (
    KIND_ASYNC,
    KIND_ENTER,
    KIND_EXIT,
    KIND_KERNEL,
    KIND_MERGE,
    KIND_NEXT,
    KIND_PASS,
    KIND_SWITCH,
    KIND_TRANSFER,
    DataflowPlan,
    NodePlan,
)
from runtime._ext.float_errors cimport restore_warnings, silence_warnings
from runtime._ext.invoke cimport (
    INPUT_HEADROOM,
    BoundKernel,
    dereference,
    invoke,
    named_error,
    op_of,
    release_outputs,
    reusable_inputs,
    store_result,
)
from runtime._ext.predicates cimport choice_of
from runtime._ext.running_step cimport (
    Former,
    count_work,
    enter_step,
    leave_step,
    memory_error,
)
from runtime._ext.step_context cimport StepContext, call_for_node

from runtime._ext.dead_values import DEAD_VALUE, DeadFetch
from runtime._ext.errors import Internal

logger = logging.getLogger(__name__)

cnp.import_array()

cdef extern from "Python.h":
    object PyObject_Vectorcall(PyObject *callable, PyObject **args, size_t nargsf, PyObject *kwnames)
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()


@cython.final
cdef class Completion:
    """What an asynchronous kernel calls when it is done: ``done(result, None)`` or ``done(None, error)``."""

    def __call__(self, result, error):
        if self.called:
            raise RuntimeError("done was called a second time for one run of an asynchronous kernel")
        self.called = True
        cdef DataflowRun run = self.run
        # made before the list is looked at: an allocation may collect garbage and so let another thread in
        entry = (self, result, error)
        run._inbox.append(entry)
        if not run._driving:
            run._driving = True
            _hand_over(run)


cdef int _hand_over(DataflowRun run) except -1:
    """Have a run driven on, by another thread where the step says which. The caller has set `_driving`."""
    hand_over = run.step.hand_over
    if hand_over is not None:
        try:
            hand_over(run.drive)
            return 0
        except Exception:
            # a closed pool must not leave a step without its end
            logger.exception("step %s could not be handed to another thread", run.step.step_id)
    run._drive()
    return 0


@cython.final
cdef class DataflowRun(Delivery):
    """One run of a `Dataflow`; callers of partial runs use its methods."""

    def __cinit__(self):
        self._inbox = []
        self._cancel_token = 0

    def __dealloc__(self):
        PyMem_Free(self._feed_states)
        PyMem_Free(self._scratch)

    def feed(self, int index, value):
        """Give a feed of a partial run its value; it takes effect when the run is next driven.

        Raises
        ------
        Error
            If the value is not of the feed's type.
        ValueError
            If there is no such feed, or it has been given.
        """
        if not 0 <= index < self.plan.num_feeds:
            raise ValueError(f"there is no feed {index}; the step has {self.plan.num_feeds}")
        if self._feed_states[index]:
            raise ValueError(f"feed {index} has been given already")
        value = self.plan.check_feed(index, value)
        self._feed_states[index] = 1
        self._feeds.append(value)
        self._inbox.append((index, value, None))

    def fetch(self, indices, done):
        """Run on; ``done(outputs, error)`` is called once, when all of these fetches are there or the run has failed."""
        indices = tuple(indices)
        for index in indices:
            if not 0 <= index < self.plan.num_fetches:
                raise ValueError(f"there is no fetch {index}; the step has {self.plan.num_fetches}")
        self._waiters.append((indices, done))
        self._go_on()

    def finish(self, done):
        """Run on; ``done(None, error)`` is called once, when everything has run or the run has failed."""
        self._waiters.append((None, done))
        self._keep_going = False
        self._go_on()

    def drive(self):
        """Go on with the run in this thread; given to `StepContext.hand_over`, and not for other callers."""
        self._drive()

    def _go_on(self):
        self._asked = True
        if not self._driving:
            self._driving = True
            _hand_over(self)

    cdef int _start(self) except -1:
        """Allocate what a run needs, open the outermost frame and make its roots ready."""
        cdef DataflowPlan plan = self.plan
        cdef int i
        self._store = make_store(plan)
        self._scratch = <PyObject **>PyMem_Calloc(INPUT_HEADROOM + plan.max_inputs + plan.max_outputs,
                                                  sizeof(PyObject *))
        self._feed_states = <char *>PyMem_Calloc(max(plan.num_feeds, 1), 1)
        self._mask = 15
        while self._mask < <unsigned int>plan.num_roots + <unsigned int>plan.num_feeds:
            self._mask = 2 * self._mask + 1
        self._queue = <Ready *>PyMem_Malloc((self._mask + 1) * sizeof(Ready))
        if not (self._scratch and self._feed_states and self._queue):
            raise MemoryError()
        self._inputs = self._scratch + INPUT_HEADROOM
        self._outputs = self._inputs + plan.max_inputs
        self._root = self._store.open_outermost()
        for i in range(plan.num_fetches):
            if plan.constant_fetches[i] != NULL:
                self._store.keep_fetch(i, plan.constant_fetches[i])
        for i in range(plan.num_roots):
            self._push(plan.roots[i], False, self._root)
        return 0

    # The driver.

    cdef int _drive(self) except -1:
        """Go on until nothing is left to do here; the caller has set `_driving`."""
        cdef Former former_step = enter_step(self.step.shared)
        try:
            former = silence_warnings()
            try:
                return self._drive_on()
            finally:
                restore_warnings(former)
        finally:
            leave_step(former_step)

    cdef int _drive_on(self) except -1:
        while True:
            self._asked = False
            try:
                Py_EnterRecursiveCall(" in a step")
                try:
                    self._step_through()
                finally:
                    Py_LeaveRecursiveCall()
            except BaseException as error:
                # kernels' errors are named where they arise; this one is about the run itself
                self._fail(named_error(error, None))
            self._answer_waiters()
            if self._inbox:
                continue
            if self._head == self._tail and not self._waiting_kernels and not self._finished and (
                    self._error is not None or (not self._keep_going and not self._missing_feeds)):
                self._finish()
            # what came while callbacks were called, without anything in the inbox, finds nobody else to see to it
            if not self._inbox and not self._asked:
                self._driving = False
                return 0

    cdef int _step_through(self) except -1:
        """Process what is ready and what has come in until there is neither."""
        cdef Ready ready
        cdef StepContext step = self.step
        while True:
            if self._inbox:
                self._accept_inbox()
            if step.cancelled and self._error is None:
                self._fail(step.error)
            if self._head == self._tail:
                return 0
            # copied: the queue may move while the node runs
            ready = self._queue[self._head & self._mask]
            self._head += 1
            self._process(ready.node, ready.is_dead, ready.iteration)
            count_work(step.shared, 1)

    cdef int _accept_inbox(self) except -1:
        """Take in the results of asynchronous kernels and the feeds of partial runs."""
        cdef Completion completion
        cdef NodePlan *node
        cdef Iteration *iteration
        inbox, self._inbox = self._inbox, []
        for sender, result, error in inbox:
            if isinstance(sender, Completion):
                completion = sender
                self._waiting_kernels -= 1
                completion.run = None
                iteration, completion.iteration = completion.iteration, NULL
                if self._error is not None:
                    continue
                node = &self.plan.nodes[completion.node]
                if error is not None:
                    self._fail(named_error(error, <str>node.code.name))
                    continue
                if result is DEAD_VALUE:
                    self._complete(completion.node, iteration, True)
                    continue
                try:
                    store_result(&node.code, result, self._outputs)
                except BaseException as problem:
                    release_outputs(&node.code, self._outputs)
                    self._fail(named_error(problem, <str>node.code.name))
                    continue
                if completion.started is not None:
                    self._record(node, completion.node, completion.started, completion.started)
                self._complete(completion.node, iteration, False)
            elif sender is not None:
                self._missing_feeds -= 1
                if self._error is None:
                    Py_INCREF(result)
                    self._outputs[0] = <PyObject *>result
                    self._root.outstanding += 1
                    self._complete(sender, self._root, False)
        return 0

    # One node.

    cdef int _process(self, int index, bint is_dead, Iteration *iteration) except -1:
        """Run a ready node and pass on what it makes."""
        cdef NodePlan *node = &self.plan.nodes[index]
        try:
            if is_dead and node.kind != KIND_TRANSFER:
                self._release_inputs(node, iteration)
            elif node.kind == KIND_TRANSFER:
                self._start_transfer(node, index, is_dead, iteration)
                return 0
            elif not self._run_node(node, index, iteration):
                return 0
            self._complete(index, iteration, is_dead)
        except BaseException as error:
            release_outputs(&node.code, self._outputs)
            if self._root != NULL:
                if self.step.shared.refused and isinstance(error, MemoryError):
                    error = memory_error(self.step.shared, op_of(<BoundKernel>self.plan.kernels[index]))
                self._fail(named_error(error, <str>node.code.name))
        return 0

    cdef int _run_node(self, NodePlan *node, int index, Iteration *iteration) except -1:
        """Fill the outputs; return 0 when the node completes later."""
        cdef int kind = node.kind
        cdef int i, choice
        cdef PyObject **cells = iteration.cells + node.cell
        cdef PyObject *value
        cdef PyObject *held
        cdef unsigned int reusable = 0
        cdef object started = time.time_ns() if self.step.trace is not None else None
        if kind == KIND_KERNEL:
            for i in range(node.num_inputs):
                self._inputs[i] = cells[i]
            if node.code.fn != NULL and node.reusable:
                reusable = reusable_inputs(cells, node.reusable)
            invoke(&node.code, self.step, self._inputs, self._outputs, reusable)
            self._release_inputs(node, iteration)
        elif kind == KIND_PASS or kind == KIND_ENTER or kind == KIND_EXIT or kind == KIND_NEXT:
            for i in range(node.code.num_outputs):
                self._outputs[i] = self._take(node, iteration, i)
            if node.num_inputs > node.code.num_outputs:
                self._release_inputs(node, iteration)
        elif kind == KIND_SWITCH:
            value = self._take(node, iteration, 0)
            self._outputs[0] = value  # so that it is released when the index is wrong
            held = self._take(node, iteration, 1)
            try:
                choice = choice_of(<object>held, node.code.num_outputs)
            finally:
                Py_XDECREF(held)
            self._outputs[0] = NULL
            self._outputs[choice] = value
        elif kind == KIND_MERGE:
            i = iteration.counts[node.local].live_input
            value = cells[0]
            cells[0] = NULL
            self._outputs[0] = value
            if node.code.derefs != NULL and node.code.derefs[i]:
                self._outputs[0] = dereference(value)
                Py_XDECREF(value)
            self._outputs[1] = <PyObject *>self.plan.merge_indices[i]
            Py_XINCREF(self._outputs[1])
        elif kind == KIND_ASYNC:
            self._start_async(node, index, iteration)
            return 0
        else:  # KIND_TRIGGER
            self._release_inputs(node, iteration)
        if started is not None:
            self._record(node, index, started, started)
        return 1

    cdef int _start_async(self, NodePlan *node, int index, Iteration *iteration) except -1:
        cdef Completion completion = Completion.__new__(Completion)
        cdef PyObject **cells = iteration.cells + node.cell
        cdef int i, taken = 0
        cdef str name = <str>node.code.name  # held: a completion may end the run, and the plan with it
        cdef PyObject *former = call_for_node(<PyObject *>name)
        completion.run = self
        completion.node = index
        completion.iteration = iteration
        if self.step.trace is not None:
            completion.started = time.time_ns()
        self._waiting_kernels += 1
        try:
            while taken < node.num_inputs:
                self._inputs[taken] = cells[taken]
                if node.code.derefs != NULL and node.code.derefs[taken]:
                    self._inputs[taken] = dereference(cells[taken])
                else:
                    Py_XINCREF(cells[taken])
                taken += 1
            # the call holds its own references: a completion may end the run, and with it the cells
            self._release_inputs(node, iteration)
            (self._inputs - 2)[0] = <PyObject *>self.step
            (self._inputs - 1)[0] = <PyObject *>completion
            PyObject_Vectorcall(node.code.call, self._inputs - 2, node.num_inputs + 2, NULL)
        except BaseException:
            if completion.called:
                # it has given an answer, which stands; that it then raised is a flaw to be seen in the log
                logger.exception("kernel of node %s raised after it had completed", name)
            else:
                completion.called = True
                self._waiting_kernels -= 1
                raise
        finally:
            call_for_node(former)
            for i in range(taken):
                Py_XDECREF(self._inputs[i])
        return 0

    cdef int _start_transfer(self, NodePlan *node, int index, bint is_dead, Iteration *iteration) except -1:
        """Call ``kernel(step, done, frame_and_iteration, is_dead, *inputs)``; a dead node gets no inputs."""
        cdef Completion completion = Completion.__new__(Completion)
        cdef PyObject **cells = iteration.cells + node.cell
        cdef PyObject *value
        cdef int i
        cdef list arguments = [self.step, completion, f"{iteration.frame.id}:{iteration.number}", bool(is_dead)]
        completion.run = self
        completion.node = index
        completion.iteration = iteration
        if self.step.trace is not None:
            completion.started = time.time_ns()
        self._waiting_kernels += 1
        try:
            if not is_dead:
                for i in range(node.num_inputs):
                    if node.code.derefs != NULL and node.code.derefs[i]:
                        value = dereference(cells[i])
                        arguments.append(<object>value)
                        Py_XDECREF(value)
                    else:
                        arguments.append(<object>cells[i])
            self._release_inputs(node, iteration)
            (<object>node.code.call)(*arguments)
        except BaseException:
            if completion.called:
                logger.exception("kernel of node %s raised after it had completed", <object>node.code.name)
            else:
                completion.called = True
                self._waiting_kernels -= 1
                raise
        return 0

    # The end.

    cdef int _fail(self, object error) except -1:
        """Note the first error, forget what is ready and wake what waits."""
        if self._error is not None:
            return 0
        self._error = error
        self._head = self._tail
        self.step.cancel(error)
        if self.step.error is not None:  # cancelled before: that is why the kernel failed
            self._error = self.step.error
        return 0

    cdef list _outputs_or_raise(self, fetches):
        cdef list result = []
        cdef PyObject *value
        cdef int i
        for i in fetches:
            if self._store.fetch_states[i] == NOT_THERE:
                raise Internal(f"fetch {i} has no value although the step has ended: its node never became ready")
            if self._store.fetch_states[i] == DEAD:
                raise DeadFetch(i)
            value = self._store.fetched[i]
            if self.plan.fetch_names[i] is None:
                result.append(<object>value)
                continue
            try:
                value = dereference(value)
            except BaseException as error:
                raise named_error(error, self.plan.fetch_names[i]) from None
            result.append(<object>value)
            Py_XDECREF(value)
        return result

    cdef int _answer_waiters(self) except -1:
        """Answer the calls of a partial run whose fetches are there, and all of them once the run has ended."""
        if not self._waiters:
            return 0
        cdef list ready = []
        waiters, self._waiters = self._waiters, []
        for indices, done in waiters:
            if self._finished or (self._error is None and indices is not None and self._has(indices)):
                ready.append((indices, done))
            else:
                self._waiters.append((indices, done))
        for indices, done in ready:
            outputs, error = None, self._error
            if error is None and indices is not None:
                try:
                    outputs = self._outputs_or_raise(indices)
                except Exception as problem:
                    error = problem
            _call_done(done, outputs, error)
        return 0

    cdef bint _has(self, tuple fetches) noexcept:
        cdef int i
        for i in fetches:
            if self._store.fetch_states[i] == NOT_THERE:
                return False
        return True

    cdef int _finish(self) except -1:
        """Release everything and say how it went, once."""
        cdef list outputs = None
        cdef PyObject *value
        cdef int i
        self._finished = True
        if self._cancel_token:
            self.step.forget(self._cancel_token)
        self._head = self._tail
        self._store.close_outermost()
        self._root = NULL
        self._feeds = None
        error = self._error
        done, self._done = self._done, None
        if done is not None:
            if error is None:
                try:
                    outputs = self._outputs_or_raise(range(self.plan.num_fetches))
                except Exception as problem:
                    error = problem
            self._store.drop_fetches()
            _call_done(done, outputs, error)
        self._answer_waiters()
        return 0

    cdef int _record(self, NodePlan *node, int index, object scheduled, object started) except -1:
        cdef BoundKernel kernel = self.plan.kernels[index]
        self.step.trace.add(self.plan.path, kernel.node, scheduled, started, time.time_ns(),
                            [<object>self._outputs[i] if self._outputs[i] != NULL else None
                             for i in range(node.code.num_outputs)])
        return 0


cdef int _call_done(done, outputs, error) except -1:
    try:
        done(outputs, error)
    except Exception:
        logger.exception("the callback of a step failed")
    return 0


cdef class Dataflow(DataflowPlan):
    """A compiled step, or function body, that runs by dataflow; see `DataflowPlan` for its parameters."""

    cdef Dataflow _for_trace(self):
        """Return what shows every node of the graph."""
        if not isinstance(self.traced, Dataflow):
            self.traced = self.traced()
        return self.traced

    cdef DataflowRun _new_run(self, StepContext step, feeds, bint check):
        cdef DataflowRun run = DataflowRun.__new__(DataflowRun)
        cdef int i
        run.plan = self
        run.step = step
        run._driving = True
        if feeds is not None:
            if len(feeds) != self.num_feeds:
                raise ValueError(f"{len(feeds)} feeds given where the step has {self.num_feeds}")
            feeds = [self.check_feed(i, feeds[i]) for i in range(self.num_feeds)] if check else list(feeds)
        run._feeds = [] if feeds is None else feeds
        run._start()
        run._missing_feeds = self.num_feeds
        if feeds is not None:
            for i in range(self.num_feeds):
                run._inbox.append((i, feeds[i], None))
        return run

    def run(self, StepContext step, feeds):
        """Run to the end in the calling thread; only for steps in which nothing waits.

        Parameters, result and errors are those of `Program.run`; besides, `DeadFetch` tells that a fetched value is
        dead.
        """
        if self.traced is not None and step.trace is not None:
            return self._for_trace().run(step, feeds)
        return _run_here(self._new_run(step, feeds, True))

    def call(self, StepContext step, args):
        """Run to the end without a check of the arguments' types, for function bodies."""
        if self.traced is not None and step.trace is not None:
            return self._for_trace().call(step, args)
        return _run_here(self._new_run(step, args, False))

    def start(self, StepContext step, feeds, done):
        """Run; ``done(outputs, error)`` is called exactly once, after every kernel has returned.

        What can run at once runs in the calling thread. When a kernel completes later, the rest goes through the step's
        `hand_over`. Errors of the feeds go to `done` too.
        """
        _start_run(self, step, feeds, done, True)

    def start_call(self, StepContext step, args, done):
        """Start without a check of the arguments' types, for function bodies."""
        _start_run(self, step, args, done, False)

    def begin(self, StepContext step):
        """Open a partial run: feeds are given, and fetches asked for, through the methods of the `DataflowRun`."""
        if self.traced is not None and step.trace is not None:
            return self._for_trace().begin(step)
        cdef DataflowRun run = self._new_run(step, None, False)
        run._waiters = []
        run._keep_going = True
        run._driving = False
        # nothing may be running when the step is cancelled, so the run must be woken to notice
        run._cancel_token = step.on_cancel(run._go_on)
        return run


class _Outcome:
    """Where a run in the calling thread leaves its result."""

    __slots__ = ("error", "outputs")

    def __init__(self):
        self.outputs = None
        self.error = None

    def __call__(self, outputs, error):
        self.outputs = outputs
        self.error = error


cdef list _run_here(DataflowRun run):
    outcome = _Outcome()
    run._done = outcome
    run._drive()
    if not run._finished:
        error = Internal("a step that waits for something was run as one that does not")
        run.step.cancel(error)
        raise error
    if outcome.error is not None:
        raise outcome.error
    return outcome.outputs


cdef int _start_run(Dataflow flow, StepContext step, feeds, done, bint check) except -1:
    cdef DataflowRun run
    try:
        if flow.traced is not None and step.trace is not None:
            flow = flow._for_trace()
        run = flow._new_run(step, feeds, check)
    except Exception as error:
        _call_done(done, None, error)
        return 0
    run._done = done
    run._drive()
    return 0
