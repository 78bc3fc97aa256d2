"""Two hosts on this machine: network namespaces, joined by a link of their own that can be slow and can be cut."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ADDRESSES = ("198.18.0.1", "198.18.0.2")
"""From the range that is set aside for measuring networks (RFC 2544)."""

SLOW = (
    ("netem", "delay", "2ms"),
    ("tbf", "rate", "50mbit", "burst", "2kb", "latency", "500ms"),  # 0.24 ms a packet, 20 ms for 128 kB
)
"""What makes a link slow, the best first: not every kernel can delay packets, so else they queue."""


class NoHosts(Exception):  # noqa: N818 (the test is skipped)
    """They can't be made here. Argument: why."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One of the two."""

    name: str
    interface: str
    address: str

    def inside(self, *command: str) -> tuple[str, ...]:
        """The command line that runs another one on this host."""
        ours = f"GLOO_SOCKET_IFNAME={self.interface}"
        return "ip", "netns", "exec", self.name, "env", ours, *command


@dataclass(frozen=True, kw_only=True)
class Hosts:
    """Both, and what is between them."""

    first: Host
    second: Host
    slowed_by: str

    def give_up_early(self) -> None:
        """TCP takes a connection for lost some seconds after nothing has been answered, instead of 15 minutes."""
        for host in (self.first, self.second):
            subprocess.run(host.inside("sysctl", "-q", "net.ipv4.tcp_retries2=5"), capture_output=True, check=True)

    def cut(self) -> None:
        """Take the link away: what is on its way is lost, and nobody is told."""
        ip("-n", self.second.name, "link", "set", self.second.interface, "down")

    def mend(self) -> None:
        """Give the link back."""
        ip("-n", self.second.name, "link", "set", self.second.interface, "up")


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Two new hosts, gone afterwards with all that still runs on them.

    Raises:
        NoHosts: this machine can't make network namespaces, or we may not.
    """
    if sys.platform != "linux":
        raise NoHosts("network namespaces are Linux's")
    if missing := [program for program in ("ip", "tc") if shutil.which(program) is None]:
        raise NoHosts(f"there is no {missing[0]}: install iproute2")
    first, second = (
        Host(name=f"fastdcgan-{os.getpid()}-{number}", interface=f"link{number}", address=address)
        for number, address in enumerate(ADDRESSES)
    )
    try:
        try:
            _join(first, second)
        except subprocess.CalledProcessError as error:
            raise NoHosts(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
        yield Hosts(first=first, second=second, slowed_by=_slow(first, second))
    finally:
        for host in (first, second):
            _remove(host)


def ip(*command: str) -> None:
    """Raises CalledProcessError if it can't be done."""
    subprocess.run(["ip", *command], capture_output=True, text=True, check=True)


def _join(*hosts: Host) -> None:
    """Make them, and a link between them."""
    for host in hosts:
        ip("netns", "add", host.name)
    one, other = (("netns", host.name, "name", host.interface) for host in hosts)
    ip("link", "add", *one, "type", "veth", "peer", *other)
    for host in hosts:
        ip("-n", host.name, "address", "add", f"{host.address}/30", "dev", host.interface)
        for interface in ("lo", host.interface):
            ip("-n", host.name, "link", "set", interface, "up")


def _slow(*hosts: Host) -> str:
    """Make the link slow in both directions, as well as this kernel can."""
    for how in SLOW:
        commands = [["tc", "-n", host.name, "qdisc", "replace", "dev", host.interface, "root", *how] for host in hosts]
        if all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands):
            return " ".join(how)
    return "nothing"


def _remove(host: Host) -> None:
    """With its processes and its end of the link. It may not have been made."""
    inside = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True, text=True, check=False)
    for process in inside.stdout.split():
        subprocess.run(["kill", "-KILL", process], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)
