"""Collectives: members of a group, on several tasks, that add up, gather or spread a tensor among themselves.

One task, the leader, brings the members together; tensors then go from member to member, in the pieces, under the keys
and over the calls that TensorFlow's workers use.
"""
