"""The store under random schedules of hosts that share it, on a file system that does what networks' ones may."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from lowrank_exp.files.whole import write_whole
from lowrank_exp.job.outcomes import Outcome, OutcomeStore, read_outcome
from support.strange_folder import Host, StrangeFolder

NAME, KEY = "train", "0123456789abcdef" * 4
HOSTS = 3
HOUR = 3600.0


def compute(host: Host) -> Outcome:
    """A phase as a job computes it, by a host whose bits are its own; and a file that all hosts make alike."""
    store = OutcomeStore(Path(host.folder.path), lambda line: None)
    if (stored := store.read(NAME, KEY)) is not None:
        return stored
    with store.writing(NAME, KEY, lambda line: None) as work:
        if (stored := store.read(NAME, KEY)) is not None:
            return stored
        host.computed = True
        try:
            for epoch in range(2):
                with write_whole(work / "last.ckpt") as part:
                    part.write_text(f"epoch {epoch}")
                host.sleep(20)
        except FileNotFoundError:  # another has finished, and cleared up
            if (stored := store.read_late(NAME, KEY)) is None:
                raise
            return stored
        with write_whole(store.root / "svd" / "one.pt", first=True) as part:
            part.write_text("of the weight")
        with store.making(NAME, KEY) as made:
            (made / "network.pt").write_text(f"weights of {host.name}")
            figures = dict.fromkeys(("macs", "weights", "parameters", "bytes"), 1)
            outcome = Outcome(NAME, KEY, True, {"by": host.name}, **figures, latency_ms=None, latency_at={}, seconds=1)
            return store.publish(outcome, made)[0]


class Schedules(RuleBasedStateMachine):
    """Three hosts compute one phase; one by one they go on, stop for a while, or die."""

    @initialize(
        links=st.booleans(),
        excludes=st.sampled_from([True, True, False]),
        lags=st.booleans(),
        reported=st.sampled_from([0.0, 0.3]),
        seed=st.integers(0, 1000),
    )
    def begin(self, links, excludes, lags, reported, seed):
        self.root = Path(tempfile.mkdtemp())
        self.disturbed = lags or not excludes
        self.folder = StrangeFolder(self.root, links, excludes, lags, reported, seed)
        for number in range(HOSTS):
            self.folder.hosts.append(Host(self.folder, f"host{number}", (number - 1) * HOUR, compute))

    @rule(number=st.integers(0, HOSTS - 1), steps=st.integers(1, 30))
    def go_on(self, number, steps):
        host = self.folder.hosts[number]
        for _ in range(steps):
            if host.runs:
                self.folder.step(host)

    @rule(seconds=st.sampled_from([1, 20, 25, 61, 90]))
    def pass_time(self, seconds):
        self.folder.pass_time(seconds)

    @rule(number=st.integers(0, HOSTS - 1))
    def stop_or_go_on(self, number):
        host = self.folder.hosts[number]
        host.frozen, self.disturbed = not host.frozen, True

    @precondition(lambda self: sum(not host.dead for host in self.folder.hosts) > 1)
    @rule(number=st.integers(0, HOSTS - 1))
    def die(self, number):
        self.folder.hosts[number].dead, self.disturbed = True, True

    def teardown(self):
        if not hasattr(self, "folder"):
            return
        try:
            self.end()
            self.check()
        finally:
            self.folder.close()
            shutil.rmtree(self.root)

    def end(self):
        """All that live go on in turn until they have ended: there is no dead end."""
        living = [host for host in self.folder.hosts if not host.dead]
        for host in living:
            host.frozen = False
        for _ in range(3000):
            running = [host for host in living if host.runs]
            for host in running:
                self.folder.step(host)
            if all(host.done for host in living):
                return
            if not running:
                self.folder.pass_time(1)
        raise AssertionError("some host does not come to an end")

    def check(self):
        hosts = self.folder.hosts
        for host in hosts:
            if host.error is not None:
                raise host.error
        published = read_outcome(self.root / f"{NAME}-{KEY[:16]}")
        (by,) = published.scores.values()
        assert (self.root / f"{NAME}-{KEY[:16]}" / "network.pt").read_text() == f"weights of {by}"
        assert {host.ended.scores["by"] for host in hosts if host.ended is not None} == {by}
        assert sum(host.ended is not None for host in hosts) >= sum(not host.dead for host in hosts) >= 1
        assert (self.root / "svd" / "one.pt").read_text() == "of the weight"
        if not self.disturbed:
            assert sum(hasattr(host, "computed") for host in hosts) == 1
            assert sorted(path.name for path in self.root.iterdir()) == ["svd", f"{NAME}-{KEY[:16]}"]


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=200,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
