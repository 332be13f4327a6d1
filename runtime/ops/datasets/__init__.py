"""Datasets in the graph: what their ops make, how they are read, and the iterators that steps take elements from.

A dataset is an immutable description, an element of a variant tensor (`dataset.Dataset`). Reading one is an
`iteration.Iteration`: it makes a tree of `dataset.DatasetIterator` objects, one for each dataset on the way, and pulls
elements through it. `next` of an iterator is a coroutine, because anything on the way may have to wait: a user function
that dequeues, another part of the pipeline that reads ahead. `task.Task` drives these coroutines; a suspended one is an
object in memory and holds no thread.

Where a dataset type is:

- `sources`: tensors, slices, ranges, random numbers;
- `record_files`: lines, TFRecords, records of one length;
- `mapping`: what calls a function for every element, one after the other; `parallel_mapping`: several at a time;
- `parsing`: the features of Examples;
- `flattening`: what makes datasets of elements and reads those, flat, interleaved or ahead;
- `batching`, `grouping`: elements to batches, windows and groups;
- `selection`: take, skip, repeat, concatenate, zip, shards, and what only hands on;
- `shuffling`; `buffering`: prefetching and caching;
- `iterators`: the resources that steps hold on to; `reduction`: a whole dataset in one node.
"""
