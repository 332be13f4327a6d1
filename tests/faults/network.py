"""A task on the far side of a network whose packets can be made to vanish.

The task runs in a network namespace, joined to this one by a pair of virtual interfaces. Packets vanish as they do
when a switch fails: neither end hears of it, nothing is refused. They are sent to a hardware address that nobody has.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType

__all__ = ["Link", "missing"]

HERE, THERE = "198.18.{}.1", "198.18.{}.2"  # from the block that is set apart for tests of networks
NOBODY = "02:00:00:00:00:fe"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def missing() -> str | None:
    """Return why this machine cannot have such a network, or None when it can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root, and this is not root"
    if shutil.which("ip") is None:
        return "network namespaces are made with `ip` (iproute2), which is not installed"
    try:
        with Link():
            return None
    except (AssertionError, OSError) as error:
        return f"no network namespace can be made here: {error}"


class Link:
    """A namespace and the way to it; a context manager.

    Attributes
    ----------
    here, there : str
        Addresses of both ends.
    """

    def __init__(self) -> None:
        number = secrets.randbelow(250) + 1
        self.here, self.there = HERE.format(number), THERE.format(number)
        self._near, self._far = f"trt{number}n", f"trt{number}f"
        self._namespace = f"trt-{os.getpid()}-{number}"
        self._macs: dict[str, str] = {}

    def inside(self) -> Sequence[str]:
        """Return what makes a command run in the namespace when it stands before it."""
        return ["ip", "netns", "exec", self._namespace]

    def __enter__(self) -> Link:
        run("ip", "netns", "add", self._namespace)
        try:
            run("ip", "link", "add", self._near, "type", "veth", "peer", "name", self._far, "netns", self._namespace)
            run("ip", "addr", "add", f"{self.here}/24", "dev", self._near)
            run(*self._there("addr", "add", f"{self.there}/24", "dev", self._far))
            for command in (["ip", "link", "set", self._near, "up"], self._there("link", "set", self._far, "up"),
                            self._there("link", "set", "lo", "up")):
                run(*command)
            with open(f"/sys/class/net/{self._near}/address") as address:
                self._macs[self.here] = address.read().strip()
            self._macs[self.there] = run(*self.inside(), "cat", f"/sys/class/net/{self._far}/address").strip()
            self.heal()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        subprocess.run(["ip", "link", "del", self._near], capture_output=True, timeout=20)
        run("ip", "netns", "del", self._namespace)

    def _there(self, *command: str) -> list[str]:
        return ["ip", "-n", self._namespace, *command]

    def cut(self, to_there: bool = True, to_here: bool = True) -> None:
        """Let packets vanish on the way there, on the way here, or both."""
        if to_there:
            self._send(self.there, NOBODY)
        if to_here:
            self._send(self.here, NOBODY)

    def heal(self) -> None:
        """Let packets arrive again."""
        for end in (self.there, self.here):
            self._send(end, self._macs[end])

    def _send(self, address: str, mac: str) -> None:
        """Send what is for an address to this hardware address."""
        command = ["neigh", "replace", address, "lladdr", mac, "nud", "permanent", "dev"]
        if address == self.there:
            run("ip", *command, self._near)
        else:
            run(*self._there(*command, self._far))
