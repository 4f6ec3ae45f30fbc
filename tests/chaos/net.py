"""Hosts of a chaos run: network namespaces on a bridge, or this host alone.

A namespace has a network of its own, and its processes a `/dev/shm` of their own, so that ranks of two hosts
can't share memory. Files are seen by all hosts, as a job's directory must be. Namespaces need root, `ip` and `tc`
(iproute2).
"""

import os
import shutil
import subprocess

NAME = f"espc{os.getpid() % 10000}"
NET = "10.231.7"


class NetError(Exception):
    """What the system refused, in its words."""


def tool(*words, check=True):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=30)
    if check and done.returncode != 0:
        raise NetError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def why_not():
    """What namespaces lack here; none if they can be had."""
    if os.geteuid() != 0:
        return "network namespaces need root; run as root, or pass --no-netns for one host without partitions"
    for name in ("ip", "tc", "mount"):
        if shutil.which(name) is None:
            return f"{name} is not installed (Debian: iproute2); or pass --no-netns for one host without partitions"
    return None


class Here:
    """All processes on this host: no partitions, no loss."""

    apart, netem = False, None

    def __init__(self, names):
        self.names = list(names)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def address(self, host):
        return "127.0.0.1"

    def wrap(self, host, command):
        return command


class Namespaces:
    """One namespace per host, all on one bridge; this process reaches them at `NET`.1."""

    apart = True

    def __init__(self, names):
        self.names, self.netem = list(names), False

    def __enter__(self):
        try:
            tool("ip", "link", "add", NAME, "type", "bridge")
            tool("ip", "addr", "add", f"{NET}.1/24", "dev", NAME)
            tool("ip", "link", "set", NAME, "up")
            for host in self.names:
                self.add(host)
            self.netem = self.has_netem()
        except BaseException:
            self.__exit__()
            raise
        return self

    def add(self, host):
        space, outside = self.space(host), self.outside(host)
        tool("ip", "netns", "add", space)
        tool("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
        tool("ip", "link", "set", outside, "master", NAME)
        tool("ip", "link", "set", outside, "up")
        tool("ip", "-n", space, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        tool("ip", "-n", space, "link", "set", "lo", "up")
        tool("ip", "-n", space, "link", "set", "eth0", "up")

    def has_netem(self):
        """Whether this kernel can lose packets."""
        try:
            self.worsen(self.names[0], "netem", "delay", "1ms")
        except NetError:
            return False
        finally:
            self.mend(self.names[0])
        return True

    def __exit__(self, *_):
        for host in self.names:
            tool("ip", "link", "del", self.outside(host), check=False)
            tool("ip", "netns", "del", self.space(host), check=False)
        tool("ip", "link", "del", NAME, check=False)

    def space(self, host):
        return f"{NAME}-{host}"

    def outside(self, host):
        # Names of interfaces have at most 15 letters.
        return f"{NAME}-{self.names.index(host)}"

    def address(self, host):
        return f"{NET}.{10 + self.names.index(host)}"

    def wrap(self, host, command):
        """`ip netns exec` gives the process mounts of its own and then becomes it, so its id is the process's."""
        script = 'mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        return ["ip", "netns", "exec", self.space(host), "sh", "-c", script, "sh", *command]

    def cut(self, host):
        """No packet comes or goes, and nobody is told."""
        tool("ip", "link", "set", self.outside(host), "down")

    def join(self, host):
        tool("ip", "link", "set", self.outside(host), "up")

    def worsen(self, host, *how):
        """Both ways of a host's link get this queue, in tc's words: `netem loss 5%`, `tbf rate 20mbit …`."""
        tool("tc", "qdisc", "replace", "dev", self.outside(host), "root", *how)
        tool("ip", "netns", "exec", self.space(host), "tc", "qdisc", "replace", "dev", "eth0", "root", *how)

    def mend(self, host):
        tool("tc", "qdisc", "del", "dev", self.outside(host), "root", check=False)
        tool("ip", "netns", "exec", self.space(host), "tc", "qdisc", "del", "dev", "eth0", "root", check=False)
