"""Memory lent between processes: claimed once, given back in time, and never left behind, whoever dies when."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime._ext.buffer_pool import BufferPool
from runtime.errors import DataLoss, NotFound, PermissionDenied, ResourceExhausted, Unavailable
from runtime.transport import borrower, segments
from runtime.transport import lender as lending
from runtime.transport.lender import lender
from runtime.transport.place import Place, here
from tests import peers

MIB = 1 << 20
FOLDER = Path(__file__).parent


class Program:
    """One of the programs beside this file."""

    def __init__(self, name: str, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(peers.ROOT)}
        self.process = subprocess.Popen([sys.executable, str(FOLDER / name), *arguments], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def program(name: str, *arguments: str) -> Iterator[Program]:
    made = Program(name, *arguments)
    try:
        yield made
    finally:
        made.kill()


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        gc.collect()
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def own_pool(monkeypatch: pytest.MonkeyPatch) -> BufferPool:
    """Segments of this test alone, and no lease of another one."""
    for number in list(lender()._waiting):
        lender().revoke(number)
    until(lambda: lender().num_leases == 0)
    made = BufferPool(256 * MIB, segments._make_segment)
    monkeypatch.setattr(segments, "_pool", made)
    return made


def lend(nbytes: int, value: int = 1, is_read_only: bool = False) -> int:
    buffer = segments.pool().take(nbytes)
    np.frombuffer(buffer, np.uint8)[...] = value
    return lender().lend(buffer, is_read_only)


def files_in_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def test_memory_is_claimed_used_in_place_and_given_back(own_pool: BufferPool) -> None:
    with program("borrowing_program.py", lender().address) as other:
        for turn in range(1, 6):
            lease = lend(MIB, turn)
            assert other.ask(f"{lease} {MIB} drop") == f"{turn * MIB} True"
            until(lambda: own_pool.num_lent == 0)
        assert own_pool.num_made == 1  # one segment served all
        held = [lend(MIB, 3) for _ in range(3)]
        for lease in held:
            assert other.ask(f"{lease} {MIB} hold") == f"{3 * MIB} True"
        assert own_pool.num_lent == 3 and lender().num_leases == 3
        assert other.ask("0 0 release") == "released"
        until(lambda: own_pool.num_lent == 0 and lender().num_leases == 0)


def test_what_is_written_is_seen_where_it_was_lent() -> None:
    buffer = segments.pool().take(MIB)
    array = np.frombuffer(buffer, np.uint8)
    array[...] = 1
    with program("borrowing_program.py", lender().address) as other:
        assert other.ask(f"{lender().lend(buffer, False)} {MIB} write") == f"{7 * MIB} True"
        assert (array == 7).all()
        assert other.ask(f"{lender().lend(buffer, True)} {MIB} hold") == f"{7 * MIB} False"


def test_a_lease_is_claimed_once_and_only_what_is_lent() -> None:
    with program("borrowing_program.py", lender().address) as other:
        lease = lend(MIB)
        assert other.ask(f"{lease} {MIB} drop") == f"{MIB} True"
        assert other.ask(f"{lease} {MIB} drop").startswith("NotFound the lease of 1048576 bytes")
        assert other.ask(f"12345 {MIB} drop").startswith("NotFound")
        revoked = lend(MIB)
        lender().revoke(revoked)
        assert other.ask(f"{revoked} {MIB} drop").startswith("NotFound")
        assert other.ask(f"{lend(MIB)} 5 drop").startswith("DataLoss the lease at")
        assert other.ask(f"{lend(MIB)} {MIB} drop") == f"{MIB} True"


def test_a_lease_that_nobody_claims_ends(own_pool: BufferPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "CLAIM_TIMEOUT_S", -1.0)
    lend(MIB)
    assert own_pool.num_lent == 1
    lender()._tick()
    assert own_pool.num_lent == 0 and lender().num_leases == 0


def test_killing_borrowers_in_a_loop_leaves_nothing(own_pool: BufferPool) -> None:
    files = files_in_memory()
    descriptors: set[int] = set()
    for turn in range(8):
        with program("borrowing_program.py", lender().address) as other:
            for _ in range(3):
                assert other.ask(f"{lend(MIB)} {MIB} hold") == f"{MIB} True"
            lend(MIB)  # not claimed, when it dies
            if turn % 2:
                assert other.process.stdin is not None
                other.process.stdin.write(f"{lend(MIB)} {MIB} hold\n")  # dies in the middle of this, or before
                other.process.stdin.flush()
            other.kill()
        until(lambda: all(not found.leases for found in lender()._connections.values()))
        for number in list(lender()._waiting):
            lender().revoke(number)
        until(lambda: own_pool.num_lent == 0)
        descriptors.add(len(os.listdir("/proc/self/fd")))
    assert own_pool.num_made <= 5
    assert max(descriptors) - min(descriptors) <= 1  # of segments that were made in a later turn
    assert files_in_memory() == files


def test_killing_lenders_in_a_loop_leaves_nothing_and_memory_in_use_stays() -> None:
    files = files_in_memory()
    before = len(os.listdir("/proc/self/fd"))
    mapped = Path("/proc/self/maps").read_text().count("memfd:tensor-runtime")
    for turn in range(5):
        with program("lending_program.py") as other:
            address, lease = other.ask(f"{MIB} {turn + 1}").split()
            held = np.frombuffer(borrower.claim(address, int(lease), MIB), np.uint8)
            address, late = other.ask(f"{MIB} 9").split()
            other.kill()
        assert (held == turn + 1).all()
        with pytest.raises(Unavailable, match="the memory of"):
            borrower.claim(address, int(late), MIB)
        assert (held == turn + 1).all()
        del held
    borrower._tick()
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert files_in_memory() == files
    assert maps.count("memfd:tensor-runtime") <= mapped  # the segments of this process itself, of other tests


def test_idle_segments_are_unmapped_and_sent_again(own_pool: BufferPool) -> None:
    with program("lending_program.py") as other:
        address, lease = other.ask(f"{MIB} 5").split()
        array = np.frombuffer(borrower.claim(address, int(lease), MIB), np.uint8)
        found = borrower._borrowers[address]
        found.trim(0.0)
        assert len(found._segments) == 1  # in use
        del array
        found.trim(0.0)
        assert not found._segments
        address, lease = other.ask(f"{MIB} 6").split()
        assert (np.frombuffer(borrower.claim(address, int(lease), MIB), np.uint8) == 6).all()


def test_a_frozen_lender_costs_time_and_nothing_else() -> None:
    with program("lending_program.py") as other:
        address, lease = other.ask(f"{MIB} 5").split()
        held = np.frombuffer(borrower.claim(address, int(lease), MIB), np.uint8)
        address, late = other.ask(f"{MIB} 6").split()
        os.kill(other.process.pid, signal.SIGSTOP)
        until(lambda: ") T " in Path(f"/proc/{other.process.pid}/stat").read_text())
        try:
            with pytest.raises(Unavailable, match="timed out"):
                borrower.claim(address, int(late), MIB, 0.2)
        finally:
            os.kill(other.process.pid, signal.SIGCONT)
        # What is held stays lent, though its connection takes no more claims.
        address, other_lease = other.ask(f"{MIB} 8").split()
        assert (np.frombuffer(borrower.claim(address, int(other_lease), MIB), np.uint8) == 8).all()
        assert (held == 5).all()


def test_only_ones_own_user_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "peer_user", lambda _: os.getuid() + 1)
    with program("borrowing_program.py", lender().address) as other:
        assert other.ask(f"{lend(MIB)} {MIB} drop").startswith("Unavailable")
    monkeypatch.undo()
    monkeypatch.setattr(borrower, "peer_user", lambda _: os.getuid() + 1)
    with program("lending_program.py") as other:
        address, lease = other.ask(f"{MIB} 5").split()
        with pytest.raises(PermissionDenied, match=f"belongs to user {os.getuid() + 1}"):
            borrower.claim(address, int(lease), MIB)


def test_packets_that_are_none_end_the_connection() -> None:
    for packet in (b"x", b"\x01" * 15, b"y" * 100):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect("\0" + lender().address[1:])
            sock.settimeout(5)
            sock.send(packet)
            with contextlib.suppress(ConnectionResetError):
                assert len(sock.recv(100)) in (0, lending.REPLY.size)
    lease = lend(MIB)
    with program("borrowing_program.py", lender().address) as other:
        assert other.ask(f"{lease} {MIB} drop") == f"{MIB} True"


def test_what_was_borrowed_is_lent_on_beside_what_has_the_same_number_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_numbers", itertools.count(1))
    own = lend(MIB, 3)  # the first segment here
    with program("lending_program.py") as first, program("borrowing_program.py", lender().address) as last:
        address, lease = first.ask(f"{MIB} 5").split()  # the first segment there
        passed_on = lender().lend(borrower.claim(address, int(lease), MIB), True)
        assert last.ask(f"{own} {MIB} hold") == f"{3 * MIB} True"
        assert last.ask(f"{passed_on} {MIB} hold") == f"{5 * MIB} False"


def test_a_segment_that_could_shrink_is_refused() -> None:
    descriptor = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, MIB)
    with pytest.raises(DataLoss, match="segment 3 could shrink"):
        segments.map_segment(os.dup(descriptor), MIB, 3)
    with pytest.raises(DataLoss, match=f"segment 3 has {MIB} bytes; {2 * MIB} were announced"):
        segments.map_segment(os.dup(descriptor), 2 * MIB, 3)
    os.close(descriptor)


def test_without_memfd_a_file_is_used_that_has_lost_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise PermissionError("not in this sandbox")

    files = files_in_memory()
    monkeypatch.setattr(os, "memfd_create", refused)
    with program("borrowing_program.py", lender().address) as other:
        assert other.ask(f"{lend(MIB, 4)} {MIB} drop") == f"{4 * MIB} True"
        assert files_in_memory() == files


def test_without_abstract_names_a_socket_in_a_private_file_is_used(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path.parent.parent  # a path has 107 characters at most
    bind = socket.socket.bind

    class NoAbstractNames(socket.socket):
        def bind(self, address: str) -> None:  # type: ignore[override]
            if address.startswith("\0"):
                raise OSError("no such thing here")
            bind(self, address)

    monkeypatch.setattr(lending.socket, "socket", NoAbstractNames)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    made = lending.Lender()
    assert made.address.startswith(str(folder))
    assert os.stat(made.address).st_mode & 0o777 == 0o600
    monkeypatch.undo()
    buffer = segments.pool().take(MIB)
    np.frombuffer(buffer, np.uint8)[...] = 2
    with program("borrowing_program.py", made.address) as other:
        assert other.ask(f"{made.lend(buffer, False)} {MIB} drop") == f"{2 * MIB} True"
    made.remove()
    assert not os.path.exists(made.address)


def test_a_forked_child_has_no_part_in_its_parents_leases(own_pool: BufferPool) -> None:
    with program("lending_program.py") as other:
        address, lease = other.ask(f"{MIB} 5").split()
        array = np.frombuffer(borrower.claim(address, int(lease), MIB), np.uint8)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                old = here.cache_info().currsize
                del array  # must not end the parent's lease
                gc.collect()
                code = 0 if old == 0 and lending._lender is None and segments._pool is None else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        other.ask(f"{MIB} 9")  # would use the segment again, were it free
        assert (array == 5).all()


def test_places_share_only_within_a_boot_and_a_user() -> None:
    own = Place("boot", 5, 1)
    assert own.can_share_with(Place("boot", 5, 2))
    assert not own.can_share_with(Place("boot", 6, 2))
    assert not own.can_share_with(Place("other", 5, 2))
    assert not Place("", 5, 1).can_share_with(Place("", 5, 2))
    assert own.is_same_process(Place("boot", 5, 1)) and not own.is_same_process(Place("boot", 5, 2))
    assert Place.of(here().message()) == here()


def test_the_limit_of_segments_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    segments.set_limit(MIB)
    try:
        with pytest.raises(ResourceExhausted, match="the limit of the pool is 1048576"):
            segments.empty(2 * MIB, np.uint8)
    finally:
        monkeypatch.setattr(segments, "_limit_bytes", None)


def test_an_address_without_a_lender_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        borrower.claim("@tensor-runtime-nobody", 1, 1)
    with pytest.raises(NotFound):
        borrower.claim(lender().address, 1, 1)
