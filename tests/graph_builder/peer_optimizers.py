"""Run by the peer's interpreter: the operations and results of TensorFlow's own optimizers.

Reads JSON from standard input: per case the optimizer's class, its arguments, and how many steps; writes JSON lines:
the types of the update operations with their attrs, and the variables' values after every step.
"""

import json
import sys

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_eager_execution()


def one(case):
    with tf.Graph().as_default() as graph:
        w = tf.get_variable("w", initializer=np.array(case["w"], np.float32), use_resource=True)
        table = tf.get_variable("table", initializer=np.array(case["table"], np.float32), use_resource=True)
        loss = tf.reduce_sum(tf.square(w)) + tf.reduce_sum(tf.square(tf.gather(table, case["rows"])))
        before = {op.name for op in graph.get_operations()}
        train = getattr(tf.train, case["class"])(**case["arguments"]).minimize(loss)
        made = [op for op in graph.get_operations() if op.name not in before]
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            values = []
            for _ in range(case["steps"]):
                session.run(train)
                values.append([array.tolist() for array in session.run([w, table])])
    updates = sorted(op.type for op in made if op.type.startswith("Resource") and "Apply" in op.type)
    slots = sorted(op.name for op in made if op.type == "VarHandleOp")
    return {"updates": updates, "slots": slots, "values": values}


for case in json.load(sys.stdin):
    print(json.dumps(one(case)))
