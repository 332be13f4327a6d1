"""What a session's ConfigProto says, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runtime import wire
from runtime._ext.errors import InvalidArgument
from runtime.graph.device_spec import DeviceSpec, parse

__all__ = ["SessionConfig", "propagated_task"]


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Options of a session.

    Attributes
    ----------
    soft_placement : bool
        A request for a device type or id that is not there falls back to another device of its task.
    log_placement : bool
        Log the device of every node.
    device_filters : tuple of DeviceSpec
        Tasks and devices that the session may use; empty for all. The master's own task is always in.
    operation_timeout_s : float
        Limit for every step that sets none of its own, in seconds; 0 for none.
    isolate : bool
        The session shares no variables or other resources with others.
    keep_unread : bool
        Nodes whose values nobody reads run all the same, as where TensorFlow's optimizer of dependencies is off.
    keeps_repeated : bool
        Nodes run, too, where others compute the same, as where both of TensorFlow's optimizers that merge them are off.
    sends_bfloat16 : bool
        Values of type float go to other tasks as bfloat16, in half the bytes.
    """

    soft_placement: bool = False
    log_placement: bool = False
    device_filters: tuple[DeviceSpec, ...] = ()
    operation_timeout_s: float = 0.0
    isolate: bool = False
    keep_unread: bool = False
    keeps_repeated: bool = False
    sends_bfloat16: bool = False

    @classmethod
    def from_proto(cls, config: Any) -> SessionConfig:
        """Return the options of a ConfigProto; fields that say how a process, or most that say how an optimizer should
        behave, are ignored.

        Raises
        ------
        InvalidArgument
            For thread pools of the session's own, or a malformed device filter.
        """
        if config.use_per_session_threads or config.session_inter_op_thread_pool:
            raise InvalidArgument("Distributed session does not support session thread pool options.")
        filters = []
        for text in config.device_filters:
            spec = parse(text)
            if spec is None:
                raise InvalidArgument(
                    f"Invalid device filter: {text}; a filter is any part of /job:J/replica:R/task:T/device:TYPE:ID"
                )
            filters.append(spec)
        isolate = config.isolate_session_state or bool(config.cluster_def.job)
        if config.experimental.share_session_state_in_clusterspec_propagation:
            isolate = False
        rewriting = config.graph_options.rewrite_options
        options = config.graph_options.optimizer_options
        merging_off = options.opt_level == wire.OptimizerOptions.L0 and not options.do_common_subexpression_elimination
        merging_graphs_off = (
            rewriting.disable_meta_optimizer or rewriting.common_subgraph_elimination == wire.RewriterConfig.OFF
        )
        return cls(
            config.allow_soft_placement,
            config.log_device_placement,
            tuple(filters),
            max(0, config.operation_timeout_in_ms) / 1000.0,
            isolate,
            rewriting.disable_meta_optimizer or rewriting.dependency_optimization == wire.RewriterConfig.OFF,
            merging_off and merging_graphs_off,
            config.graph_options.enable_bfloat16_sendrecv,
        )

    def admits(self, task: DeviceSpec) -> bool:
        """Tell whether the session may use a task."""
        return not self.device_filters or any(task.intersects(one) for one in self.device_filters)

    def admits_device(self, name: str) -> bool:
        """Tell whether the session may use a device of another task."""
        spec = parse(name)
        return spec is not None and self.admits(spec)


def propagated_task(cluster_def: Any, target: str, own_job: str, own_task: int) -> tuple[str, int] | None:
    """Return the job and task that a session's own ClusterDef gives this master, or None when it has none.

    Parameters
    ----------
    cluster_def : wire.ClusterDef
    target : str
        What the client connected to, as it wrote it; the scheme does not count.
    own_job, own_task : str, int
        What the server was started as.

    Raises
    ------
    InvalidArgument
        If not exactly one task has the target's address, or it has this server's own name.
    """
    if not cluster_def.job:
        return None
    address = target.partition("://")[2] or target
    found: list[tuple[str, int]] = []
    for job in cluster_def.job:
        found += [(job.name, index) for index, where in sorted(job.tasks.items()) if where == address]
    if len(found) > 1:
        raise InvalidArgument(
            "Found multiple matching tasks that correspond to to the master. Master target: "
            f"'{target}'. ClusterDef: {_short(cluster_def)}"
        )
    if not found:
        raise InvalidArgument(
            f"The master (current machine) is not included in the provided cluster_def. {_short(cluster_def)}"
        )
    job_name, index = found[0]
    if (job_name, index) == (own_job, own_task):
        raise InvalidArgument(
            "The ClusterSpec names the job and task index to be the same names that were provided when "
            "the server booted. This is currently not allowed. Job: "
            f"{job_name}, task index: {index}"
        )
    return job_name, index


def _short(message: Any, limit: int = 500) -> str:
    text = " ".join(str(message).split())
    return text if len(text) <= limit else text[:limit] + " ..."
