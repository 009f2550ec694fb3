"""A SLURM cluster of two nodes on this machine, without systemd or munge: for tests, and to try things by hand.

python tests/cluster/cluster.py FOLDER

starts it and prints a line, after which SLURM's commands find it with SLURM_CONF=FOLDER/slurm.conf; `kill n2` on
standard input takes a node's power away, `start n2` brings it back, and the end of the input stops all that was
started. So the cluster ends with the process that holds the other end of a pipe, however that ends.

Needs Debian's slurm-wlm, or SLURM by another way; no system user, no key, no service: all its files lie in FOLDER.
"""

import contextlib
import getpass
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NODES = ("n1", "n2")
CPUS = 2  # of each node, whatever this machine has

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=15
KillWait=10
MinJobAge=300
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=1000
PartitionName=spare Nodes=n1,n2 Default=YES MaxTime=60 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n1,n2 MaxTime=60 PriorityTier=10
"""


class Cluster:
    """A cluster whose files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "slurm.conf"
        self.processes: dict[str, subprocess.Popen] = {}
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        names = {"host": socket.gethostname(), "user": getpass.getuser(), "folder": folder, "cpus": CPUS}
        self.conf.write_text(CONF.format(ports=free_ports(3), **names))

    def start(self) -> None:
        """Start the controller and the nodes, and wait until these are there."""
        self._start("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)
        deadline = time.monotonic() + 120
        while self.call("sinfo", "--noheader", "--format=%T", "--partition=spare").split() != ["idle"]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no cluster after two minutes: {self.logs()}")
            time.sleep(0.5)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """As a power cut does: the node's daemon and all processes of its jobs are gone at once."""
        self.processes.pop(node).kill()
        for pid in self._pids_on(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def call(self, *command: str) -> str:
        """What one of SLURM's commands prints; nothing where it fails."""
        environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        return run.stdout if run.returncode == 0 else ""

    def stop(self) -> None:
        """End all jobs, then all daemons."""
        self.call("scancel", "--user", getpass.getuser())
        deadline = time.monotonic() + 20
        while self.call("squeue", "--noheader") and time.monotonic() < deadline:
            time.sleep(0.5)
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        for node in NODES:
            for pid in self._pids_on(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-2000:]}" for path in self.folder.glob("*.log")
        )

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("a") as output:
            environment = {**os.environ, "SLURM_CONF": str(self.conf)}
            self.processes[name] = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def _pids_on(self, node: str) -> set[int]:
        """The processes of jobs on a node, and the daemons that look after these."""
        found = set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (path / "environ").read_bytes().split(b"\0")
                if f"SLURM_CONF={self.conf}".encode() in variables and f"SLURMD_NODENAME={node}".encode() in variables:
                    parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                    title = Path(f"/proc/{parent}/comm").read_text()
                    found |= {int(path.name), *([int(parent)] if title.startswith("slurmstepd") else [])}
        return found


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens to."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def serve(folder: Path) -> None:
    """Run a cluster until the standard input ends, see above."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.setsid()
    os.environ["PATH"] += ":/usr/sbin"  # where Debian has the daemons, and users may not look
    cluster = Cluster(folder)
    try:
        cluster.start()
        print("ready", flush=True)
        for line in sys.stdin:
            verb, node = line.split()
            {"kill": cluster.kill_node, "start": cluster.start_node}[verb](node)
            print("done", flush=True)
    finally:
        cluster.stop()


if __name__ == "__main__":
    serve(Path(sys.argv[1]).absolute())
