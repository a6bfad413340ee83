"""A real SLURM of two nodes on this machine, each in a network namespace of its own.

Nothing of it touches what the machine already runs, not even another such cluster: munge has its
own key and socket, SLURM its own configuration and port, the network carries this process's number
in its names and addresses, and the names of the nodes stand in a hosts file that only they see.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from train.zero.ranks import free_port

NODES = ("sp-node1", "sp-node2")
_OWN = os.getpid()
_BRIDGE = f"sp{_OWN}br"
_NETWORK = f"10.{128 + (_OWN >> 8) % 64}.{_OWN % 256}"
_NAMESPACES = {node: f"sp{_OWN}-{number}" for number, node in enumerate(NODES)}
_BINARIES = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "ip", "nsenter", "unshare")
_CPUS_A_NODE = 4
"""More than there are: jobs that wait for one another must not wait for this small machine."""

_CONFIGURATION = """
ClusterName=safepatching
SlurmctldHost={controller}({network}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={port}
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
ReturnToService=2
SlurmdTimeout=20
KillWait=10
InactiveLimit=0
MinJobAge=300
JobRequeue=1
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=cpu Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def why_impossible() -> str | None:
    """What keeps this machine from running the cluster; ``None`` where nothing does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for network namespaces"
    missing = [name for name in _BINARIES if shutil.which(name, path=_path()) is None]
    if missing:
        return f"needs {missing[0]}: apt-get install slurm-wlm munge iproute2"
    probe = subprocess.run(["ip", "netns", "add", f"sp{_OWN}"], capture_output=True, env=_env())
    subprocess.run(["ip", "netns", "del", f"sp{_OWN}"], capture_output=True, env=_env())
    return "network namespaces cannot be made here" if probe.returncode else None


class SlurmCluster:
    """The daemons; ``environment`` makes SLURM's commands talk to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**_env(), "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Make the network and start the daemons; returns when both nodes are idle."""
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        self._write_configuration()
        _make_network()
        self._start_munge()
        self._start("slurmctld", ["slurmctld", "-D", "-c"])
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def stop(self) -> None:
        """End every daemon, all that still runs in the nodes, and the network."""
        subprocess.run(["scancel", "--user=root"], env=self.environment, capture_output=True)
        for node in NODES:
            self.kill_node(node)
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()
        _remove_network()

    def start_node(self, node: str) -> None:
        """Start a node's slurmd in its own network, with its own name and hosts file."""
        inside = (
            f"mount --bind {self.folder}/hosts /etc/hosts && hostname {node} && "
            f"exec slurmd -D -N {node}"
        )
        namespace = f"--net=/run/netns/{_NAMESPACES[node]}"
        # Not `ip netns exec`, which mounts another /sys: slurmd then finds no cgroup.
        self._start(node, ["nsenter", namespace, "unshare", "--uts", "--mount", "sh", "-c", inside])

    def kill_node(self, node: str) -> None:
        """Kill all that runs in a node: its slurmd, and the tasks of its jobs."""
        kill(*self.pids(node))

    def pids(self, node: str, *words: str) -> list[int]:
        """Processes of a node, or those of them whose command line holds all the words."""
        listing = subprocess.run(
            ["ip", "netns", "pids", _NAMESPACES[node]], capture_output=True, env=_env()
        )
        pids = [int(pid) for pid in listing.stdout.split()]
        return [pid for pid in pids if all(word in command_line(pid) for word in words)]

    def wait_until_idle(self, seconds: float = 60) -> None:
        """Wait until both nodes can take jobs."""
        wait_for(lambda: self.ask("sinfo", "-h", "-N", "-p", "gpu", "-o", "%t") == "idle\nidle",
                 seconds, lambda: self.ask("sinfo", "-N"))  # fmt: skip

    def ask(self, *command: str) -> str:
        """What a command of SLURM says."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout.strip()

    def _write_configuration(self) -> None:
        addresses = {node: f"{_NETWORK}.{number + 11}" for number, node in enumerate(NODES)}
        controller = os.uname().nodename
        hosts = [f"{address} {node}" for node, address in addresses.items()]
        (self.folder / "hosts").write_text(
            "\n".join(["127.0.0.1 localhost", f"{_NETWORK}.1 {controller}", *hosts, ""])
        )
        nodes = [
            f"NodeName={node} NodeAddr={address} CPUs={_CPUS_A_NODE} RealMemory=8000"
            for node, address in addresses.items()
        ]
        (self.folder / "slurm.conf").write_text(
            _CONFIGURATION.format(
                controller=controller,
                network=_NETWORK,
                port=free_port(),
                folder=self.folder,
                nodes="\n".join(nodes),
            )
        )

    def _start_munge(self) -> None:
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid"}
        options = [f"--{flag}={self.folder}/munge.{name}" for flag, name in files.items()]
        options += [f"--{flag}-file={self.folder}/munge.{flag}" for flag in ("log", "seed")]
        self._start("munged", ["munged", "--foreground", "--force", *options])
        wait_for(lambda: (self.folder / "munge.socket").exists(), 20)

    def _start(self, name: str, command: Sequence[str]) -> None:
        log = (self.folder / f"{name}.out").open("ab")
        self._daemons[name] = subprocess.Popen(
            command, env=self.environment, stdout=log, stderr=log, start_new_session=True
        )
        log.close()


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """The running cluster; gone afterwards, whatever happens inside."""
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def wait_for(
    condition: Callable[[], bool], seconds: float, state: Callable[[], str] = lambda: ""
) -> None:
    """Poll until ``condition`` holds; after so many seconds fail, showing ``state``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {state()}"
        time.sleep(0.1)


def kill(*pids: int) -> None:
    """kill -9, of those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def command_line(pid: int) -> str:
    """A process's command line; empty where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _path() -> str:
    # Debian's daemons are in sbin, which not every shell's PATH holds.
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _env() -> dict[str, str]:
    return {**os.environ, "PATH": _path()}


def _make_network() -> None:
    _ip("link", "add", _BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{_NETWORK}.1/24", "dev", _BRIDGE)
    _ip("link", "set", _BRIDGE, "up")
    for number, inside in enumerate(_NAMESPACES.values()):
        link = f"sp{_OWN}v{number}"
        _ip("netns", "add", inside)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", inside)
        _ip("link", "set", link, "master", _BRIDGE, "up")
        _ip("-n", inside, "addr", "add", f"{_NETWORK}.{number + 11}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", inside, "link", "set", device, "up")


def _remove_network() -> None:
    for number, inside in enumerate(_NAMESPACES.values()):
        subprocess.run(["ip", "link", "del", f"sp{_OWN}v{number}"], capture_output=True, env=_env())
        subprocess.run(["ip", "netns", "del", inside], capture_output=True, env=_env())
    subprocess.run(["ip", "link", "del", _BRIDGE], capture_output=True, env=_env())


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, env=_env())
