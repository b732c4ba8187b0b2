"""Machines that are not there: hosts with an address, processes and memory of their own, on this one machine.

A world is a network and process namespace with a bridge; each host in it has namespaces for its network, processes,
mounts, name and shared memory, a folder of its own at /tmp/ray and, when asked for, an ssh server. Nothing of it is
seen outside, and all of it ends with the world's first process. Everything else of the file system is shared, so that
a run folder lies where all hosts see it, as on NFS. Needs root, iproute2, util-linux and curl; openssh-server, rsync
and nftables for hosts that are reached by ssh.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]
NETWORK = "10.79.0"
HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
"""ssh asks the system for it, whatever $HOME says: each host has a folder of its own mounted there."""
SSHD = "/usr/sbin/sshd"
PACKAGES = "curl iproute2 util-linux openssh-server rsync nftables"
DEMAND = "ECGRAY_CLUSTER_TESTS"

INIT = """
set -e
mount --make-rprivate /
mkdir -p /tmp/ray
mount --bind {folder}/ray /tmp/ray
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount --bind {names} /etc/hosts
mount --bind {resolver} /etc/resolv.conf  # nobody answers there, at once: a lost question would be waited for
{keep}
mount --rbind {folder}/home {home}
hostname {name}
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip addr add {address}/24 dev eth0
ip link set eth0 up
ip route add default dev eth0  # of no use, but to programs that ask which address is theirs
{sshd}
touch {folder}/up
while :; do sleep 0.5; done  # the first process of a host also reaps its orphans
"""

SSHD_CONFIG = """
Port 22
ListenAddress {address}
HostKey {root}/host-key
AuthorizedKeysFile {root}/key.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


def missing(ssh: bool = False) -> str | None:
    """What this machine lacks for hosts, and what to do about it; None where they can be made."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root (sudo make test-cluster)"
    tools = [
        "ip",
        "unshare",
        "nsenter",
        "setpriv",
        "curl",
        *(["ssh", "ssh-keygen", "rsync", "nft", SSHD] if ssh else []),
    ]
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} must be installed (apt-get install {PACKAGES})"
    probe = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount", "true"], capture_output=True, text=True)
    if probe.returncode:
        return f"no namespaces may be made here: {probe.stderr.strip()} (start the container with --privileged)"
    return None


def require(ssh: bool = False) -> None:
    """Skip the test that asks where hosts cannot be made, with the reason and what mends it; fail it where
    ECGRAY_CLUSTER_TESTS=required says that they can be."""
    lacking = missing(ssh)
    if lacking is None:
        return
    if os.environ.get(DEMAND) == "required":
        pytest.fail(f"{DEMAND}=required, but {lacking}")
    pytest.skip(f"hosts of a cluster cannot be made: {lacking}")


class Hosts:
    """``count`` hosts, numbered from 0, with files under ``root``; a context manager that ends them all.

    ``environment`` is what every command on a host sees beside PATH, HOME and PYTHONPATH.
    """

    def __init__(self, root: Path, count: int, *, ssh: bool = False, environment: dict[str, str] | None = None) -> None:
        self.root, self.count, self.ssh = root, count, ssh
        self._environment = environment or {}
        self._world = 0
        self._first: dict[int, int] = {}
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Hosts:
        self.root.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{self.address(i)} {self.name(i)}" for i in range(self.count))]
        (self.root / "names").write_text("\n".join(lines) + "\n")
        (self.root / "resolver").write_text("nameserver 127.0.0.1\n")
        if self.ssh:
            for key in ("key", "host-key"):
                keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / key)]
                subprocess.run(keygen, check=True)
        unshare = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "sleep", "infinity"]
        world = self._start(["setpriv", "--pdeathsig", "KILL", *unshare])
        self._world = _child(world.pid)
        self._in_world("ip", "link", "add", "bridge", "type", "bridge")
        self._in_world("ip", "link", "set", "bridge", "up")
        for host in range(self.count):
            self.boot(host)
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._world, signal.SIGKILL)
        for process in self._started:
            process.wait()

    def name(self, host: int) -> str:
        return f"host-{host}"

    def address(self, host: int) -> str:
        return f"{NETWORK}.{10 + host}"

    def folder(self, host: int) -> Path:
        return self.root / self.name(host)

    def boot(self, host: int) -> None:
        """Switch ``host`` on: nothing of an earlier life is left but its home."""
        folder = self.folder(host)
        shutil.rmtree(folder / "ray", ignore_errors=True)
        for part in ("ray", "home"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "up").unlink(missing_ok=True)
        words = {"folder": folder, "root": self.root, "name": self.name(host), "address": self.address(host)}
        (folder / "sshd_config").write_text(SSHD_CONFIG.format(**words))
        needed = [Path(sys.base_prefix), Path(sys.prefix), REPOSITORY, self.root]
        kept = {path.relative_to(HOME).parts[0] for path in needed if path.is_relative_to(HOME)}
        homes = [(shlex.quote(str(HOME / part)), shlex.quote(str(folder / "home" / part))) for part in sorted(kept)]
        keep = "\n".join(f"mkdir -p {there}; mount --bind {here} {there}" for here, there in homes)
        sshd = f"mkdir -p /run/sshd; {SSHD} -f {folder}/sshd_config -E {folder}/sshd.log" if self.ssh else ""
        (folder / "init.sh").write_text(
            INIT.format(
                **words, names=self.root / "names", resolver=self.root / "resolver", sshd=sshd, home=HOME, keep=keep
            )
        )
        apart = ["--net", "--pid", "--mount", "--uts", "--ipc", "--mount-proc", "--fork", "--kill-child"]
        enter = ["nsenter", "-t", str(self._world), "-p"]
        started = self._start([*enter, "unshare", *apart, "bash", str(folder / "init.sh")], folder / "init.log")
        self._first[host] = first = _child(_child(started.pid))
        plug = f"to-{host}"
        with contextlib.suppress(subprocess.CalledProcessError):
            self._in_world("ip", "link", "del", plug)
        self._in_world("ip", "link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", str(first))
        self._in_world("ip", "link", "set", plug, "master", "bridge", "up")
        deadline = time.monotonic() + 60
        while not (folder / "up").exists():
            if started.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name(host)} did not boot: {(folder / 'init.log').read_text()}")
            time.sleep(0.02)

    def crash(self, host: int) -> None:
        """Power off: every process of ``host`` is gone at once, and nobody is told: no connection is closed."""
        self.cut(host)
        os.kill(self._first.pop(host), signal.SIGKILL)

    def cut(self, host: int) -> None:
        """Pull the network cable of ``host``; what runs there goes on."""
        self._in_world("ip", "link", "set", f"to-{host}", "down")

    def heal(self, host: int) -> None:
        """Plug the cable in again."""
        self._in_world("ip", "link", "set", f"to-{host}", "up")

    def popen(self, host: int, command: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a shell command on ``host``; what it says goes to ``log``."""
        return self._start(self._on(host, command), log)

    def run(self, host: int, command: str, timeout: float = 300, check: bool = True) -> str:
        """Run a shell command on ``host`` and return what it said, errors too. Raises RuntimeError when it fails."""
        done = subprocess.run(
            self._on(host, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
        )
        if check and done.returncode:
            raise RuntimeError(f"{command!r} on {self.name(host)} ended with {done.returncode}: {done.stdout}")
        return done.stdout

    def processes(self, host: int) -> dict[int, str]:
        """(process id as seen from here, command line) of all that runs on ``host``."""
        found = {}
        for process in psutil.Process(self._first[host]).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found[process.pid] = shlex.join(process.cmdline()) or process.name()
        return found

    def _on(self, host: int, command: str) -> list[str]:
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(HOME),
            "PYTHONPATH": str(REPOSITORY),
            "LANG": "C.UTF-8",
            **self._environment,
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        enter = ["nsenter", "-t", str(self._first[host]), "-n", "-p", "-m", "-u", "-i"]
        return [*enter, f"--wd={REPOSITORY}", "env", "-i", *words, "bash", "-c", command]

    def _in_world(self, *command: str) -> None:
        subprocess.run(["nsenter", "-t", str(self._world), "-n", *command], check=True, capture_output=True)

    def _start(self, command: Sequence[str], log: Path | None = None) -> subprocess.Popen[bytes]:
        with open(log or os.devnull, "ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        self._started.append(process)
        return process


def _child(pid: int) -> int:
    """The first child of a process that has just been started."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = psutil.Process(pid).children()
        if children:
            return children[0].pid
        time.sleep(0.01)
    raise RuntimeError(f"process {pid} started nothing")
