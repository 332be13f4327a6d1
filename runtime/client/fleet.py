"""Calls of the fleet's services, for servers that enrol and machines that report."""

from __future__ import annotations

from typing import Any

import grpc

from runtime import wire
from runtime.client.channels import Access, SharedChannel, address_of
from runtime.client.pinning import access_pinned
from runtime.errors import Error, FailedPrecondition, from_rpc_error
from runtime.fleet.model import MachineReport

__all__ = ["FleetClient", "Target", "send_report"]

TIMEOUT_S = 10.0


class Target:
    """The server that a machine is to use.

    Attributes
    ----------
    ip : str
    certificate : bytes
        As the server enrolled it: DER, or PEM with the leaf first.
    """

    def __init__(self, ip: str, certificate: bytes) -> None:
        self.ip = ip
        self.certificate = certificate

    def address(self, port: int) -> str:
        """Return the ``grpcs://`` target for a port."""
        return f"grpcs://[{self.ip}]:{port}" if ":" in self.ip else f"grpcs://{self.ip}:{port}"

    def access(self, token: str | None = None) -> Access:
        """Return an access that trusts this server's certificate and no other."""
        return access_pinned(self.certificate, token)


class FleetClient:
    """The three services of one server.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``.
    access : Access
    timeout_s : float
        For each call.

    Raises
    ------
    Error
        From every call: what the server answers, or why it cannot be reached. A refusal is FailedPrecondition with the
        server's reason.
    """

    def __init__(self, target: str, access: Access | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self._access = access or Access(tls=target.startswith("grpcs://"))
        self._target = target
        self._timeout_s = timeout_s
        self._shared = SharedChannel.acquire(address_of(target), self._access)

    def __enter__(self) -> FleetClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the channel."""
        self._shared.release()

    def register(self, certificate: bytes) -> None:
        """Enrol a server by its certificate, DER or PEM."""
        request = wire.fleet.RegisterReq(certificate=certificate)
        answer, reason = self._call("/pb.ServerDispatcher/Register", request, wire.fleet.RegisterRes)
        if answer.status != wire.fleet.RegisterRes.REGISTERED:
            raise FailedPrecondition(f"{self._target} does not enrol the certificate: {reason}")

    def offer(self, ip: str, certificate: bytes) -> None:
        """Put an enrolled server into rotation, or renew its lease."""
        request = wire.fleet.GetNextServerReq(ip=ip, certificate=certificate)
        answer, reason = self._call("/pb.ServerDispatcher/GetNextServer", request, wire.fleet.GetNextServerRes)
        if answer.status != wire.fleet.GetNextServerRes.ACCEPTED:
            raise FailedPrecondition(f"{self._target} does not accept the offer of {ip}: {reason}")

    def target(self, uuid: str) -> Target:
        """Return the server that a machine is to use."""
        request = wire.fleet.GetTargetReq(uuid=uuid.encode())
        answer, _ = self._call("/pb.FunctionDispatcher/GetTarget", request, wire.fleet.GetTargetRes)
        return Target(answer.ip, answer.certificate)

    def save(self, report: MachineReport) -> None:
        """Report a machine."""
        request = wire.fleet.SaveMachineReq(machine=machine_message(report))
        answer, reason = self._call("/pb.WorkerSaver/SaveMachine", request, wire.fleet.SaveMachineRes)
        if answer.status != wire.fleet.SaveMachineRes.ACCEPTED:
            raise FailedPrecondition(f"{self._target} does not accept the report: {reason}")

    def _call(self, path: str, request: Any, kind: Any) -> tuple[Any, str]:
        method: Any = self._shared.channel.unary_unary(path)
        try:
            answer, call = method.with_call(
                request.SerializeToString(), timeout=self._timeout_s, metadata=self._access.metadata()
            )
        except grpc.RpcError as error:
            raise self._told(error) from None
        reason = dict(call.trailing_metadata() or ()).get("x-fleet-reason", "no reason given")
        return kind.FromString(answer), str(reason)

    def _told(self, error: grpc.RpcError) -> Error:
        told = from_rpc_error(error)
        return type(told)(f"{self._target}: {told.message}")


def send_report(server: str, access: Access, report: MachineReport, port: int = 0) -> None:
    """Report a machine.

    Parameters
    ----------
    server : str
        Target.
    access : Access
        How to get into it.
    report : MachineReport
    port : int
        When given, ``server`` is asked which server to use, and that one is told at this port, its certificate pinned.

    Raises
    ------
    Error
        What a server answers, or why it cannot be reached.
    """
    with FleetClient(server, access) as client:
        if not port:
            client.save(report)
            return
        target = client.target(report.uuid)
    with FleetClient(target.address(port), target.access(access.token)) as client:
        client.save(report)


def machine_message(report: MachineReport) -> Any:
    """Return a report as its wire message."""
    return wire.fleet.Machine(
        uuid=report.uuid,
        error=report.error,
        ifaces=[
            wire.fleet.Iface(
                name=interface.name,
                error=interface.error,
                address=[
                    wire.fleet.Address(
                        ip=address.ip,
                        ports=[wire.fleet.Port(port=port.number, service=port.service) for port in address.ports],
                    )
                    for address in interface.addresses
                ],
            )
            for interface in report.interfaces
        ],
    )
