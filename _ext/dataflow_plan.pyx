"""Lay out the nodes, edges and frames of a step that has dead values, loops or kernels that wait.

Values are numbered as in `runtime._ext.program`: first the feeds, then the outputs of all nodes, constants negative.
The feeds are nodes too, the first ones, so that an edge may come from them.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject

cimport numpy as cnp

from runtime._ext.frame_ids cimport hash_name
from runtime._ext.invoke cimport BoundKernel

import numpy

cnp.import_array()

# For the compiler, which has no cimport.
KERNEL = KIND_KERNEL
ASYNC = KIND_ASYNC
PASS = KIND_PASS
SWITCH = KIND_SWITCH
MERGE = KIND_MERGE
ENTER = KIND_ENTER
EXIT = KIND_EXIT
NEXT_ITERATION = KIND_NEXT
TRIGGER = KIND_TRIGGER
FEED = KIND_FEED
TRANSFER = KIND_TRANSFER


cdef void *_block(Py_ssize_t count, size_t size) except NULL:
    cdef void *memory = PyMem_Calloc(max(count, 1), size)
    if memory == NULL:
        raise MemoryError()
    return memory


cdef class DataflowPlan:
    """The fixed part of a dataflow step; `runtime._ext.dataflow.Dataflow` runs it.

    Parameters
    ----------
    kinds : sequence of int
        What each node does; the first ``len(feed_types)`` are `FEED`.
    kernels : sequence of (BoundKernel or None)
        One per node; None for feeds.
    inputs : sequence of sequence of int
        Per node the numbers of the values that it takes; ``-1 - k`` is constant ``k``.
    controls : sequence of sequence of int
        Per node the nodes that must have run before it.
    first_values : sequence of int
        Per node the number of its first output's value; the others follow.
    num_values : int
    frames : sequence of int
        Per node the static frame in which its inputs arrive; 0 is the outermost.
    frame_parents : sequence of int
        Per static frame the one around it; -1 for the outermost.
    enters : sequence of (int, int, bool, int)
        For each Enter: node, static frame that it leads into, whether it is constant in the loop, parallel iterations.
    constants, feed_types, fetches, fetch_names, adapt_feed, path
        As for `Program`.
    frame_names : sequence of bytes
        Per static frame its name, which takes part in the keys of what is sent to other tasks.
    """

    def __cinit__(self, kinds, kernels, inputs, controls, first_values, int num_values, frames, frame_parents, enters,
                  constants, feed_types, fetches, fetch_names, adapt_feed=None, str path="", frame_names=()):
        cdef int i, j, index, count = 0
        cdef BoundKernel kernel
        cdef NodePlan *node
        self.kernels = list(kernels)
        self.constants = tuple(constants)
        self.fetch_names = tuple(fetch_names)
        self.adapt_feed = adapt_feed
        self.path = path
        self.num_nodes = <int>len(self.kernels)
        self.num_feeds = <int>len(feed_types)
        self.num_fetches = <int>len(fetches)
        self.num_frames = <int>len(frame_parents)
        cdef list input_lists = [tuple(item) for item in inputs]
        cdef list control_lists = [tuple(item) for item in controls]
        if not (len(kinds) == len(input_lists) == len(control_lists) == len(first_values) == len(frames)
                == self.num_nodes):
            raise ValueError("every list must have one entry for each node")
        if len(self.fetch_names) != self.num_fetches:
            raise ValueError(f"{len(self.fetch_names)} fetch names for {self.num_fetches} fetches")
        self.nodes = <NodePlan *>_block(self.num_nodes, sizeof(NodePlan))
        self.frames = <FramePlan *>_block(self.num_frames, sizeof(FramePlan))
        self.feed_types = <int *>_block(self.num_feeds, sizeof(int))
        self.roots = <int *>_block(self.num_nodes, sizeof(int))
        self.constant_fetches = <PyObject **>_block(self.num_fetches, sizeof(PyObject *))
        for i in range(self.num_feeds):
            self.feed_types[i] = feed_types[i]
        self.max_outputs = 2
        for i in range(self.num_frames):
            self.frames[i].parent = frame_parents[i]
            if not -1 <= self.frames[i].parent < i or (self.frames[i].parent < 0) != (i == 0):
                raise ValueError(f"frame {i} has the parent {frame_parents[i]}; parents come first, the outermost has -1")
            if i < len(frame_names):
                self.frames[i].name_hash = hash_name(frame_names[i])
            if i:
                self.frames[i].ordinal = self.frames[self.frames[i].parent].num_children
                self.frames[self.frames[i].parent].num_children += 1
        for i in range(self.num_nodes):
            node = &self.nodes[i]
            node.kind = kinds[i]
            node.frame = frames[i]
            if not 0 <= node.kind < NUM_KINDS or not 0 <= node.frame < self.num_frames:
                raise ValueError(f"node {i} has the kind {kinds[i]} and the frame {frames[i]}")
            if (node.kind == KIND_FEED) != (i < self.num_feeds):
                raise ValueError(f"node {i} of {self.num_feeds} feeds has the kind {kinds[i]}")
            node.child = -1
            if node.kind == KIND_FEED:
                node.code.num_outputs = 1
                continue
            kernel = self.kernels[i]
            node.code = kernel.code
            node.num_inputs = <int>len(input_lists[i])
            if node.num_inputs != kernel.code.num_inputs:
                raise ValueError(f"node {kernel.name}: {node.num_inputs} inputs wired, {kernel.code.num_inputs} needed")
            if node.kind == KIND_PASS and node.code.num_outputs > node.num_inputs:
                raise ValueError(f"node {kernel.name}: {node.code.num_outputs} outputs of {node.num_inputs} inputs")
            self.max_inputs = max(self.max_inputs, node.num_inputs)
            self.max_outputs = max(self.max_outputs, node.code.num_outputs)
        self._lay_out(input_lists, control_lists, list(first_values), num_values, list(enters), tuple(fetches))

    def __dealloc__(self):
        PyMem_Free(self.nodes)
        PyMem_Free(self.frames)
        PyMem_Free(self.feed_types)
        PyMem_Free(self.roots)
        PyMem_Free(self.constant_fetches)
        PyMem_Free(self._edges)
        PyMem_Free(self._constant_flags)
        PyMem_Free(self._counts)
        PyMem_Free(self._cells)

    cdef object check_feed(self, int index, object value):
        if (cnp.PyArray_CheckExact(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == self.feed_types[index]
                and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray>value)):
            return value
        if self.adapt_feed is None:
            raise TypeError(f"feed {index} is a {type(value).__name__} of a type that it cannot have")
        return self.adapt_feed(index, value)

    cdef int _lay_out(self, list inputs, list controls, list first_values, int num_values, list enters,
                      tuple fetches) except -1:
        cdef int i, j, value, source, target, num_edges = 0, num_flags = 0, num_cells = 0, merge_inputs = 0
        cdef int *owners = <int *>_block(num_values, sizeof(int))
        cdef NodePlan *node
        cdef FramePlan *frame
        cdef Edge *edge
        cdef Count *count
        try:
            for i in range(num_values):
                owners[i] = -1
            for i in range(self.num_nodes):
                node = &self.nodes[i]
                for j in range(node.code.num_outputs):
                    value = first_values[i] + j
                    if not 0 <= value < num_values or owners[value] >= 0:
                        raise ValueError(f"node {i} makes value {value} a second time, or out of range")
                    owners[value] = i
            # how many edges leave each node
            for i in range(self.num_nodes):
                for value in inputs[i]:
                    if value >= num_values or (value >= 0 and owners[value] < 0) or -1 - value >= len(self.constants):
                        raise ValueError(f"node {i} takes value {value}, which nothing makes")
                    if value >= 0:
                        self.nodes[owners[value]].num_edges += 1
                        num_edges += 1
                num_flags += self.nodes[i].num_inputs
                for source in controls[i]:
                    if not 0 <= source < self.num_nodes:
                        raise ValueError(f"node {i} waits for node {source} of {self.num_nodes}")
                    self.nodes[source].num_edges += 1
                    num_edges += 1
            for value in fetches:
                if value >= num_values or (value >= 0 and owners[value] < 0) or -1 - value >= len(self.constants):
                    raise ValueError(f"value {value} is fetched and nothing makes it")
                if value >= 0:
                    self.nodes[owners[value]].num_edges += 1
                    num_edges += 1
            self._edges = <Edge *>_block(num_edges, sizeof(Edge))
            self._constant_flags = <unsigned char *>_block(num_flags, 1)
            edge = self._edges
            for i in range(self.num_nodes):
                self.nodes[i].edges = edge
                edge += self.nodes[i].num_edges
                self.nodes[i].num_edges = 0
            num_flags = 0
            for i in range(self.num_nodes):
                node = &self.nodes[i]
                frame = &self.frames[node.frame]
                node.local = frame.num_nodes
                frame.num_nodes += 1
                node.cell = frame.num_cells
                node.num_cells = 1 if node.kind == KIND_MERGE else node.num_inputs
                frame.num_cells += node.num_cells
                num_cells += node.num_cells
                for j in range(node.num_inputs):
                    value = inputs[i][j]
                    if value < 0:
                        if node.kind == KIND_MERGE:
                            raise ValueError(f"node {i} is a Merge of a constant; let a node make it")
                        node.constant = self._constant_flags + num_flags
                        node.constant[j] = 1
                        continue
                    if j < 32 and (node.code.derefs == NULL or not node.code.derefs[j]):
                        node.reusable |= <unsigned int>1 << j
                    source = owners[value]
                    edge = &self.nodes[source].edges[self.nodes[source].num_edges]
                    edge.slot = value - <int>first_values[source]
                    edge.target = i
                    edge.input = j
                    self.nodes[source].num_edges += 1
                num_flags += node.num_inputs
                if node.kind == KIND_MERGE:
                    merge_inputs = max(merge_inputs, node.num_inputs)
            # control edges last: whoever waits for a value of a node runs before who waits for its end
            for i in range(self.num_nodes):
                for source in controls[i]:
                    edge = &self.nodes[source].edges[self.nodes[source].num_edges]
                    edge.slot, edge.target, edge.input = -1, i, 0
                    self.nodes[source].num_edges += 1
            for i in range(self.num_fetches):
                value = fetches[i]
                if value < 0:
                    self.constant_fetches[i] = <PyObject *>self.constants[-1 - value]
                    continue
                source = owners[value]
                edge = &self.nodes[source].edges[self.nodes[source].num_edges]
                edge.slot, edge.target, edge.input = value - <int>first_values[source], -1 - i, 0
                self.nodes[source].num_edges += 1
        finally:
            PyMem_Free(owners)
        indices = [numpy.array(i, dtype=numpy.int32) for i in range(merge_inputs)]
        for array in indices:
            array.flags.writeable = False
        self.merge_indices = tuple(indices)
        for i, j, is_constant, parallel in enters:
            node = &self.nodes[i]
            if node.kind != KIND_ENTER or not 0 < j < self.num_frames or self.frames[j].parent != node.frame:
                raise ValueError(f"node {i} is no Enter from frame {node.frame} into frame {j}")
            node.child = j
            node.is_loop_constant = is_constant
            node.parallel_iterations = max(1, parallel)
            self.frames[j].num_enters += 1
        self._counts = <Count *>_block(self.num_nodes, sizeof(Count))
        self._cells = <PyObject **>_block(num_cells, sizeof(PyObject *))
        count = self._counts
        num_cells = 0
        for i in range(self.num_frames):
            self.frames[i].counts = count
            self.frames[i].cells = self._cells + num_cells
            count += self.frames[i].num_nodes
            num_cells += self.frames[i].num_cells
        for i in range(self.num_nodes):
            node = &self.nodes[i]
            if node.kind == KIND_ENTER and node.child < 0:
                raise ValueError(f"node {i} is an Enter that leads nowhere")
            frame = &self.frames[node.frame]
            count = &frame.counts[node.local]
            count.live_input = -1
            count.pending = <int>len(controls[i])
            if node.kind != KIND_MERGE:
                for j in range(node.num_inputs):
                    value = inputs[i][j]
                    if value < 0:
                        frame.cells[node.cell + j] = <PyObject *>self.constants[-1 - value]
                    else:
                        count.pending += 1
                if count.pending == 0 and node.kind != KIND_FEED:
                    if node.frame:
                        raise ValueError(f"node {i} of frame {node.frame} waits for nothing, so nothing starts it")
                    self.roots[self.num_roots] = i
                    self.num_roots += 1
        return 0
