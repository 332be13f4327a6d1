"""Workers that are made and ended here: requests, the jobs at providers, and an eye on what they have made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NamedTuple

from runtime.commands import lost
from runtime.commands.checks import MAX_CONCURRENCY, check_id, check_name
from runtime.commands.commands import Commands
from runtime.commands.model import SILENT, JobAction, JobRow, JobState, WorkerRow, WorkerStatus
from runtime.errors import AlreadyExists, Error, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from runtime.periodic import repeat
from runtime.providers.base import Provider, WorkerSpec
from runtime.store.commands import CommandRows

__all__ = ["WorkerRequest", "Workforce"]

logger = logging.getLogger(__name__)

MAX_NUMBER = 1000
MAX_JOBS_AT_ONCE = 10
JOB_TRY_S = 600.0
BACKOFFS_S = (1.0, 4.0, 16.0)
MAX_RESTARTS = 3
# After so long without trouble a worker may be started again as often as a new one.
HEALTHY_S = 600.0
ORPHANS_S = 600.0
_LONGEST_LOOK_S = 2.0
_FAILURE = "workers could not be looked after"
_OPEN = frozenset({JobState.PENDING, JobState.RUNNING})


class WorkerRequest(NamedTuple):
    """What CreateWorker asks for."""

    provider: str = ""
    flavor: str = ""
    number: int = 1
    concurrency: int = 0
    prefetch: int = 0
    step: int = 0
    flavor_number: int = 0
    region_number: int = 0


class _Place(NamedTuple):
    provider: str
    flavor: str
    region: str


class Workforce:
    """The managed workers of one server. Belongs to the loop of its `Commands`.

    Parameters
    ----------
    commands : Commands
    providers : mapping of str to Provider
        By name; their order is that of the numbers of flavors and regions.
    """

    def __init__(self, commands: Commands, providers: Mapping[str, Provider]) -> None:
        self._commands = commands
        self._store = commands.store
        self._providers = providers
        self._running: dict[int, asyncio.Task[None]] = {}
        self._started_s: dict[int, float] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up jobs that the last server left, and begin to look after workers."""
        now_s = self._commands.now_s()

        def resume(rows: CommandRows) -> None:
            for job in rows.jobs(frozenset({JobState.RUNNING})):
                job.state, job.due_s = JobState.PENDING, now_s
                rows.update_job(job)

        if self._store.read(lambda rows: rows.jobs(frozenset({JobState.RUNNING}))):
            await self._store.write(resume)
        self._tasks = [
            asyncio.ensure_future(self._run_jobs()),
            asyncio.ensure_future(repeat(self.look_after, self._look_period(), _FAILURE)),
            asyncio.ensure_future(repeat(self.end_orphans, ORPHANS_S, _FAILURE)),
        ]

    async def stop(self) -> None:
        """End what runs beside the calls; jobs that have not ended are taken up by the next server."""
        for task in (*self._tasks, *self._running.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running.values(), return_exceptions=True)
        self._tasks = []

    # -- calls -----------------------------------------------------------------------------------------------------

    async def create(self, request: WorkerRequest) -> list[int]:
        """Make workers, all or none; returns their ids at once, they register later.

        Raises
        ------
        NotFound
            For a provider, flavor, region or step that does not exist.
        InvalidArgument
            For what contradicts itself or cannot be.
        FailedPrecondition
            If the provider cannot be used.
        ResourceExhausted
            For more workers than may be.
        AlreadyExists
            If a worker that registered by itself has one of the names.
        """
        place = self._place(request)
        if request.concurrency > MAX_CONCURRENCY:
            raise InvalidArgument(f"concurrency: {request.concurrency} is more than {MAX_CONCURRENCY}")
        if request.prefetch > MAX_CONCURRENCY:
            raise InvalidArgument(f"prefetch: {request.prefetch} is more than {MAX_CONCURRENCY}")
        if request.step:
            raise NotFound(f"step {request.step} is not known; this server has no steps")
        if request.number > MAX_NUMBER:
            raise ResourceExhausted(f"number: {request.number} is more than {MAX_NUMBER} workers at a time")
        if request.number == 0:
            return []
        self._providers[place.provider].check()
        rules, now_s = self._commands.rules, self._commands.now_s()

        def insert(rows: CommandRows) -> list[int]:
            managed = rows.num_managed()
            if managed + request.number > rules.max_workers:
                raise ResourceExhausted(
                    f"number: {request.number} workers and the {managed} there are would be more than "
                    f"{rules.max_workers} (setting command_max_workers)"
                )
            numbers = []
            for _ in range(request.number):
                worker = WorkerRow(
                    0, "", WorkerStatus.INSTALLING, request.concurrency or 1, request.prefetch,
                    provider=place.provider, flavor=place.flavor, region=place.region, created_s=now_s, seen_s=now_s,
                )
                rows.insert_worker(worker)
                worker.name = check_name(f"{rules.server_name}worker{worker.number}", "name of the worker")
                if rows.worker_named(worker.name) is not None:
                    raise AlreadyExists(f"a worker is called {worker.name!r} already; no worker was made")
                rows.update_worker(worker)
                rows.insert_job(JobRow(0, worker.number, JobAction.CREATE, due_s=now_s, created_s=now_s))
                numbers.append(worker.number)
            return numbers

        numbers = await self._store.write(insert)
        self._wake.set()
        return numbers

    async def delete(self, number: int) -> None:
        """Delete a worker; what it had goes back to the queue as that of a lost worker does.

        Returns when that is stored; the worker itself is ended afterwards. One that is deleted already stays so.

        Raises
        ------
        NotFound
            There never was such a worker.
        FailedPrecondition
            It registered by itself and lives.
        """
        check_id(number, "worker_id")
        commands, now_s = self._commands, self._commands.now_s()

        def remove(rows: CommandRows) -> bool:
            worker = rows.worker(number)
            if worker is None:
                raise NotFound(f"worker {number} is not known")
            if worker.status is WorkerStatus.DELETED:
                return False
            if not worker.is_managed and worker.status not in SILENT | {WorkerStatus.INSTALLING}:
                raise FailedPrecondition(
                    f"worker {number}: {worker.name!r} registered by itself and lives; end it, and delete it when it "
                    f"has been silent for {commands.rules.offline_s:g} s"
                )
            self._remove(rows, worker, now_s, "was deleted")
            return True

        if await self._store.write(remove):
            await self._let_go(number)

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def _run_jobs(self) -> None:
        while True:
            self._wake.clear()
            try:
                pause = self._start_jobs()
            except Error as error:
                logger.warning("jobs for workers could not be read", extra={"reason": error.message})
                pause = 1.0
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _start_jobs(self) -> float | None:
        """Start what is due; return the seconds until something else is."""
        now_s = self._commands.now_s()
        following = None
        for job in self._store.read(lambda rows: rows.jobs(frozenset({JobState.PENDING}))):
            if job.worker in self._running:
                continue
            if job.due_s > now_s:
                following = job.due_s if following is None else min(following, job.due_s)
            elif len(self._running) < MAX_JOBS_AT_ONCE:
                task = asyncio.ensure_future(self._run(job))
                self._running[job.worker] = task
                task.add_done_callback(lambda _, worker=job.worker: self._ended(worker))  # type: ignore[misc]
        return None if following is None else max(0.01, following - now_s)

    def _ended(self, worker: int) -> None:
        self._running.pop(worker, None)
        self._wake.set()

    async def _run(self, job: JobRow) -> None:
        try:
            job.state = JobState.RUNNING
            await self._write_job(job)
            worker = self._store.read(lambda rows: rows.worker(job.worker))
            assert worker is not None, f"job {job.number} is for a worker that never was"
            try:
                async with asyncio.timeout(JOB_TRY_S):
                    handle = await self._do(job, worker)
            except TimeoutError:
                await self._failed(job, worker, f"it took longer than {JOB_TRY_S:g} s")
            except Error as error:
                await self._failed(job, worker, error.message)
            else:
                self._started_s[worker.number] = self._commands.now_s()
                job.state = JobState.SUCCEEDED
                await self._write_job(job, handle)
        except Error as error:
            # The store says no at the moment: the job is still there, and the next start of the server runs it.
            logger.warning("a job for a worker was not recorded", extra={"job": job.number, "reason": error.message})
        except Exception:
            logger.exception("a job for a worker failed", extra={"job": job.number})

    async def _do(self, job: JobRow, worker: WorkerRow) -> str | None:
        provider = self._provider(worker)
        if job.action is JobAction.DELETE:
            await provider.delete(worker.name, worker.handle)
            return ""
        spec = WorkerSpec(
            worker.number, worker.name, worker.concurrency, worker.prefetch, provider.flavor(worker.flavor),
            worker.region,
        )
        if job.action is JobAction.RESTART:
            return await provider.restart(spec, worker.handle)
        return await provider.create(spec)

    async def _failed(self, job: JobRow, worker: WorkerRow, why: str) -> None:
        job.tries += 1
        job.cause = why
        now_s = self._commands.now_s()
        if job.tries <= len(BACKOFFS_S):
            job.state, job.due_s = JobState.PENDING, now_s + BACKOFFS_S[job.tries - 1]
            logger.warning("a worker's job failed, it is tried again", extra={"worker": worker.name, "reason": why})
            await self._write_job(job)
            return
        job.state = JobState.FAILED
        logger.error("a worker's job failed for good", extra={"worker": worker.name, "reason": why})
        await self._write_job(job)
        if job.action is not JobAction.DELETE:
            await self._store.write(lambda rows: self._give_up(rows, worker.number, why, now_s))

    async def _write_job(self, job: JobRow, handle: str | None = None) -> None:
        job.modified_s = self._commands.now_s()

        def write(rows: CommandRows) -> None:
            rows.update_job(job)
            if handle is not None:
                worker = rows.worker(job.worker)
                if worker is not None:
                    worker.handle = handle
                    rows.update_worker(worker)

        await self._store.write(write)

    # -- looking after workers -------------------------------------------------------------------------------------

    async def look_after(self) -> None:
        """Start workers again that have died, hang, or never registered; give up on those with which that fails."""
        rules, now_s = self._commands.rules, self._commands.now_s()
        at_work = {job.worker for job in self._store.read(lambda rows: rows.jobs(_OPEN))}
        for worker in self._store.read(lambda rows: rows.workers()):
            if not worker.is_managed or worker.number in at_work or worker.status is WorkerStatus.FAILING:
                continue
            silence = self._commands.presence.silence(worker.number)
            is_new = worker.status is WorkerStatus.INSTALLING
            if not is_new and silence > rules.evict_s and worker.status in SILENT:
                logger.warning("a worker is deleted: it is gone for good", extra={"worker": worker.name})
                await self.delete(worker.number)
                continue
            if worker.status is WorkerStatus.FAILING_OFFLINE:
                continue
            started_s = self._started_s.setdefault(worker.number, now_s)
            if not await self._provider(worker).is_alive(worker.name, worker.handle):
                why = "its process has ended"
            elif is_new and now_s - started_s > rules.register_s:
                why = f"it has not registered within {rules.register_s:g} s"
            elif worker.status in SILENT and now_s - started_s > rules.offline_s:
                why = f"it has been silent for {min(silence, now_s - started_s):.0f} s"
            else:
                if worker.restarts and not is_new and now_s - started_s > HEALTHY_S:
                    await self._store.write(lambda rows, number=worker.number: _set_restarts(rows, number, 0))  # type: ignore[misc]
                continue
            await self._again(worker.number, why, now_s)

    async def _again(self, number: int, why: str, now_s: float) -> None:
        def write(rows: CommandRows) -> None:
            worker = rows.worker(number)
            if worker is None or worker.status is WorkerStatus.DELETED or rows.jobs(_OPEN, number):
                return
            if worker.restarts >= MAX_RESTARTS:
                logger.error(
                    "a worker is given up", extra={"worker": worker.name, "reason": why, "restarts": worker.restarts}
                )
                self._give_up(rows, number, f"{why}; it was started again {worker.restarts} times", now_s)
                return
            logger.warning("a worker is started again", extra={"worker": worker.name, "reason": why})
            worker.restarts += 1
            worker.cause = why
            rows.update_worker(worker)
            rows.insert_job(JobRow(0, number, JobAction.RESTART, due_s=now_s, created_s=now_s))

        await self._store.write(write)
        self._wake.set()

    def _give_up(self, rows: CommandRows, number: int, why: str, now_s: float) -> None:
        worker = rows.worker(number)
        if worker is None or worker.status is WorkerStatus.DELETED:
            return
        worker.status, worker.cause = WorkerStatus.FAILING, why
        rows.update_worker(worker)
        self._take_back(rows, worker, now_s, f"is failing: {why}")

    def _take_back(self, rows: CommandRows, worker: WorkerRow, now_s: float, why: str) -> None:
        why = f"worker {worker.name} {why}"
        lost.reclaim_assigned(rows, worker.number, now_s, why)
        lost.give_up(rows, worker, self._commands.rules, now_s, why)
        self._commands.assign_soon(rows)

    def _remove(self, rows: CommandRows, worker: WorkerRow, now_s: float, why: str) -> None:
        worker.status = WorkerStatus.DELETED
        rows.update_worker(worker)
        self._take_back(rows, worker, now_s, why)
        if worker.is_managed:
            for job in rows.jobs(_OPEN, worker.number):
                job.state, job.modified_s = JobState.STOPPED, now_s
                rows.update_job(job)
            rows.insert_job(JobRow(0, worker.number, JobAction.DELETE, due_s=now_s, created_s=now_s))

    async def _let_go(self, number: int) -> None:
        """Forget a worker that is deleted, and end a job that was still making it."""
        self._commands.deleted(number)
        self._started_s.pop(number, None)
        task = self._running.get(number)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self._wake.set()

    async def end_orphans(self) -> None:
        """End what providers have and no worker here is."""
        names = {worker.name for worker in self._store.read(lambda rows: rows.workers())}
        for provider in self._providers.values():
            for name, handle in (await provider.list()).items():
                if name not in names:
                    logger.warning("what is left of a worker is ended", extra={"worker": name})
                    await provider.delete(name, handle)

    def _look_period(self) -> float:
        rules = self._commands.rules
        return max(0.05, min(_LONGEST_LOOK_S, rules.register_s / 4, rules.offline_s / 4))

    # -- requests --------------------------------------------------------------------------------------------------

    def _provider(self, worker: WorkerRow) -> Provider:
        provider = self._providers.get(worker.provider)
        if provider is None:
            raise FailedPrecondition(f"provider {worker.provider!r} of worker {worker.name!r} is not served any more")
        return provider

    def _place(self, request: WorkerRequest) -> _Place:
        """Return what the names and numbers of a request stand for."""
        flavors = [(name, flavor) for name, provider in self._providers.items() for flavor in provider.flavors()]
        regions = [(name, region) for name, provider in self._providers.items() for region in provider.regions()]
        name, flavor = request.provider, request.flavor
        by_number = _row(flavors, request.flavor_number, "flavor_id")
        if name and name not in self._providers:
            raise NotFound(f"provider {name[:80]!r} is not known; there are {', '.join(self._providers) or 'none'}")
        if by_number is not None:
            if name not in ("", by_number[0]) or flavor not in ("", by_number[1]):
                raise InvalidArgument(
                    f"flavor_id: {request.flavor_number} is flavor {by_number[1]!r} of provider {by_number[0]!r}, "
                    f"which is not {flavor!r} of {name!r}; give one of both"
                )
            name, flavor = by_number
        region = _row(regions, request.region_number, "region_id")
        if region is not None and not name:
            name = region[0]
        if not name:
            raise InvalidArgument("provider: must not be empty unless flavor_id is given")
        if region is not None and region[0] != name:
            raise InvalidArgument(f"region_id: {request.region_number} is a region of {region[0]!r}, not of {name!r}")
        provider = self._providers[name]
        return _Place(name, provider.flavor(flavor).name, provider.regions()[0] if region is None else region[1])


def _row(rows: list[tuple[str, str]], number: int, field: str) -> tuple[str, str] | None:
    if number == 0:
        return None
    if number > len(rows):
        raise NotFound(f"{field}: {number} is not known; there are {len(rows)}")
    return rows[number - 1]


def _set_restarts(rows: CommandRows, number: int, restarts: int) -> None:
    worker = rows.worker(number)
    if worker is not None:
        worker.restarts = restarts
        rows.update_worker(worker)
