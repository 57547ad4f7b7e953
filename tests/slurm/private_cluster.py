"""A real Slurm of one's own on this machine: a controller and several node daemons on loopback, for tests.

    python tests/slurm/private_cluster.py up [--nodes 3]      # installs Debian's packages where they are missing
    python tests/slurm/private_cluster.py down

No systemd, cgroups, munge daemon or database. Nodes have fake GPUs (character devices), so that Slurm hands them out
and sets CUDA_VISIBLE_DEVICES. Memory is watched by polling, as a cluster without cgroups does it. Needs root: Slurm's
configuration has to stand in /etc/slurm, since Snakemake's plugin hides SLURM_CONF from the jobs that it starts.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client")
CONFIGURATION = Path("/etc/slurm")
MARK = "# A private cluster of vlmlaw's tests"
PATIENCE_S = 60
# Further partitions with nodes of their own, for tests that kill a node or take it from its job.
N_FRAGILE = 2
N_CONTESTED = 1

SLURM_CONF = """\
{mark}; `python tests/slurm/private_cluster.py down` removes it.
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
SlurmctldPidFile={base}/run/slurmctld.pid
SlurmdPidFile={base}/run/slurmd.%n.pid
SlurmctldLogFile={base}/log/slurmctld.log
SlurmdLogFile={base}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SlurmdTimeout=10
KillWait=15
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=900
GresTypes=gpu
NodeName=n[1-{last_node}] NodeAddr=127.0.0.1 NodeHostname={host} Port=[17001-{last_port}] CPUs={cpus} \
RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=batch Nodes=n[1-{nodes}] Default=YES MaxTime=60 State=UP
PartitionName=short Nodes=n[1-{nodes}] MaxTime=30 State=UP
PartitionName=fragile Nodes=n[{fragile}] MaxTime=60 State=UP
PartitionName=contested Nodes=n{last_node} MaxTime=60 State=UP
PartitionName=urgent Nodes=n{last_node} PriorityTier=10 MaxTime=60 State=UP
"""


class PrivateCluster:
    """The daemons, their folder and the files in /etc/slurm that point to it."""

    def __init__(self, base: Path, *, nodes: int = 3, cpus: int = 4, gpus: int = 2, memory_mb: int = 16_000):
        self.base, self.nodes, self.cpus, self.gpus, self.memory_mb = base, nodes, cpus, gpus, memory_mb

    def up(self) -> None:
        """Start all daemons and wait until every node is idle. Exits, saying why, where that cannot be."""
        self._check()
        self._configure()
        self._start("slurmctld", "slurmctld", "-D")
        for name in self.node_names:
            self.start_node(name)
        deadline = time.monotonic() + PATIENCE_S
        while self.idle_nodes() != self.node_names:
            if time.monotonic() > deadline:
                logs = "".join(tail(path) for path in sorted((self.base / "log").iterdir()))
                self.down()
                sys.exit(f"Slurm's nodes did not become idle within {PATIENCE_S} s.\n{logs}")
            time.sleep(0.1)

    @staticmethod
    def down() -> None:
        """Cancel every job, end every daemon of the private cluster that runs here, and remove what it wrote."""
        base = folder_of_ours()
        if base is None:
            return
        with suppress(subprocess.TimeoutExpired):  # of a controller that is gone
            subprocess.run(["scancel", "--user", "root"], capture_output=True, check=False, timeout=20)
        steps = [pid for pid in _pids() if _command(pid).startswith("slurmstepd: [")]
        _wait_for_end(steps, seconds=25)
        daemons = [int(path.read_text()) for path in (base / "run").glob("*.pid")]
        daemons = [pid for pid in daemons if _command(pid).startswith(("slurmctld", "slurmd"))]
        steps += _children(*daemons, *steps)
        for pid in daemons:
            _end(pid, signal.SIGTERM)
        _wait_for_end(daemons, seconds=5)
        for pid in (*daemons, *steps):
            _end(pid, signal.SIGKILL)
        for name in ("slurm.conf", "gres.conf"):
            (CONFIGURATION / name).unlink(missing_ok=True)
        shutil.rmtree(base, ignore_errors=True)

    @property
    def node_names(self) -> list[str]:
        return [f"n{i + 1}" for i in range(self.nodes + N_FRAGILE + N_CONTESTED)]

    @staticmethod
    def idle_nodes() -> list[str]:
        done = subprocess.run(["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"], capture_output=True, text=True)
        return sorted(set(done.stdout.split()))

    def start_node(self, name: str) -> None:
        (self.base / f"spool.{name}").mkdir(exist_ok=True)
        self._start(f"slurmd.{name}", "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """The node dies: its daemon and every process of its jobs, at once."""
        listed = subprocess.run(["squeue", "-h", "-w", name, "-o", "%A"], capture_output=True, text=True, check=True)
        daemon = int((self.base / "run" / f"slurmd.{name}.pid").read_text())
        marks = [f"slurmstepd: [{job}." for job in listed.stdout.split()]
        steps = [pid for pid in _pids() if any(mark in _command(pid) for mark in marks)]
        for pid in (daemon, *steps, *_children(daemon, *steps)):
            _end(pid, signal.SIGKILL)

    def restart_controller(self) -> None:
        """As when the machine that runs it reboots: what it saved to disk is all that it knows.

        Not by SIGKILL: Slurm saves its state every few seconds, and would lose jobs that were submitted since.
        """
        pid = int((self.base / "run" / "slurmctld.pid").read_text())
        _end(pid, signal.SIGTERM)
        while _alive(pid):
            time.sleep(0.05)
        self._start("slurmctld", "slurmctld", "-D")

    def _check(self) -> None:
        if os.geteuid() != 0:
            sys.exit("A private Slurm needs root: it installs packages, makes device files and writes to /etc/slurm.")
        if (CONFIGURATION / "slurm.conf").exists() and not folder_of_ours():
            sys.exit(
                f"{CONFIGURATION}/slurm.conf is of another Slurm; a private one would replace it. Use another machine."
            )
        missing = [name for name in PACKAGES if not shutil.which({"slurm-client": "squeue"}.get(name, name))]
        if missing:
            if not shutil.which("apt-get"):
                sys.exit(
                    f"Slurm is missing ({', '.join(missing)}) and there is no apt-get to install Debian's packages."
                )
            quiet = {"stdout": subprocess.DEVNULL, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
            subprocess.run(["apt-get", "update", "-qq"], check=True, **quiet)
            subprocess.run(
                ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True, **quiet
            )
        self.down()  # of one that was left behind

    def _configure(self) -> None:
        for folder in ("state", "log", "run", "dev"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for gpu in range(self.gpus):
            os.mknod(self.base / "dev" / f"nvidia{gpu}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        text = SLURM_CONF.format(
            mark=MARK,
            host=socket.gethostname().partition(".")[0],
            base=self.base,
            nodes=self.nodes,
            last_node=len(self.node_names),
            fragile=f"{self.nodes + 1}-{self.nodes + N_FRAGILE}",
            last_port=17000 + len(self.node_names),
            cpus=self.cpus,
            gpus=self.gpus,
            memory_mb=self.memory_mb,
        )
        CONFIGURATION.mkdir(exist_ok=True)
        (CONFIGURATION / "slurm.conf").write_text(text)
        devices = f"{self.base}/dev/nvidia[0-{self.gpus - 1}]"
        nodes = f"n[1-{len(self.node_names)}]"
        (CONFIGURATION / "gres.conf").write_text(f"NodeName={nodes} Name=gpu File={devices}\n")

    def _start(self, log: str, *command: str) -> None:
        with (self.base / "log" / f"{log}.out").open("ab") as out:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def folder_of_ours() -> Path | None:
    """The folder of the private cluster that the configuration in /etc/slurm is of; None where it is of none."""
    try:
        text = (CONFIGURATION / "slurm.conf").read_text()
    except OSError:
        return None
    found = re.search(r"^StateSaveLocation=(.*)/state$", text, re.MULTILINE) if text.startswith(MARK) else None
    return Path(found.group(1)) if found else None


def tail(path: Path, n_lines: int = 5) -> str:
    return f"{path.name}:\n" + "".join(
        f"  {line}\n" for line in path.read_text(errors="replace").splitlines()[-n_lines:]
    )


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def _children(*pids: int) -> list[int]:
    """Every descendant of these processes."""
    parents = {}
    for pid in _pids():
        with suppress(OSError, IndexError):
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    found, waiting = [], list(pids)
    while waiting:
        parent = waiting.pop()
        born = [pid for pid, of in parents.items() if of == parent]
        found += born
        waiting += born
    return found


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _wait_for_end(pids: list[int], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)


def _end(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--base", type=Path, default=Path("/var/tmp/vlmlaw-slurm"), help="folder of state and logs")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=4, help="of each node; may exceed the machine's")
    parser.add_argument("--gpus", type=int, default=2, help="of each node; fake")
    args = parser.parse_args()
    cluster = PrivateCluster(args.base, nodes=args.nodes, cpus=args.cpus, gpus=args.gpus)
    cluster.up() if args.action == "up" else cluster.down()


if __name__ == "__main__":
    main()
