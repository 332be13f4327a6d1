"""Tasks of Ray, Dask or a pool of processes, two workers each: ``tasks_peer.py JSON``, printed as JSON.

A task returns the size of its payload; with ``shell`` it runs that command and returns its output.

The peers keep nothing on disk; their tasks are gone with their processes.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


def size(payload):
    return len(payload)


def shell(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout


class RayTasks:
    def __init__(self, function):
        import ray

        self.ray = ray
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 object_store_memory=1 << 30)
        self.function = ray.remote(function)

    def run(self, payloads):
        return self.ray.get([self.function.remote(payload) for payload in payloads])

    def close(self):
        self.ray.shutdown()


class DaskTasks:
    def __init__(self, function):
        from dask.distributed import Client, LocalCluster

        self.cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
        self.client = Client(self.cluster)
        self.function = function

    def run(self, payloads):
        return self.client.gather(self.client.map(self.function, payloads, pure=False))

    def close(self):
        self.client.close()
        self.cluster.close()


class PoolTasks:
    def __init__(self, function):
        from concurrent.futures import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(2)
        self.function = function

    def run(self, payloads):
        return [future.result() for future in [self.pool.submit(self.function, payload) for payload in payloads]]

    def close(self):
        self.pool.shutdown()


def main():
    spec = json.loads(sys.argv[1])
    tasks = {"ray": RayTasks, "dask": DaskTasks, "pool": PoolTasks}[spec["peer"]]
    command = spec.get("shell")
    tasks = tasks(shell if command else size)
    tasks.run([command or b"x"] * 20)
    for case, count, nbytes in spec["cases"]:
        filler = random.Random(1).randbytes(nbytes)
        payloads = [command or (b"%d" % index + filler)[:nbytes] for index in range(count)]
        expected = nbytes if command is None else shell(command)
        if case == "round trip":
            times = []
            for payload in payloads:
                start = time.perf_counter()
                tasks.run([payload])
                times.append(time.perf_counter() - start)
            found = {"seconds": sum(times), "median_us": statistics.median(times) * 1e6}
        else:
            if nbytes > 1:
                tasks.run(payloads[:20])
            start = time.perf_counter()
            assert tasks.run(payloads) == [expected] * count
            found = {"seconds": time.perf_counter() - start}
        print(json.dumps({"case": case, "count": count, **found}), flush=True)
    tasks.close()


if __name__ == "__main__":
    main()
