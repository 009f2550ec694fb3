"""One job of a network, top to bottom: data, network -> phases -> result.json."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from lowrank_exp import artifact
from lowrank_exp.decomposition.store import SVDStore
from lowrank_exp.files.exclusion import tell_of_sharing
from lowrank_exp.files.place import GONE
from lowrank_exp.files.results import PhaseResult, Result
from lowrank_exp.job.console import Console
from lowrank_exp.job.deliver import deliver
from lowrank_exp.job.dry_run import DryRun
from lowrank_exp.job.exports import Exporter, comparison_images, exported_path, keep_exports
from lowrank_exp.job.finished import PLAN, read_finished
from lowrank_exp.job.hopeless import Pruned, Watch
from lowrank_exp.job.inventory import note_phases
from lowrank_exp.job.layer_losses import Losses, losses_of_plan
from lowrank_exp.job.layer_results import layer_results
from lowrank_exp.job.loggers import Log
from lowrank_exp.job.measure_phase import PhaseMeter
from lowrank_exp.job.outcomes import NETWORK, Outcome, OutcomeStore
from lowrank_exp.job.parts import Parts, Step
from lowrank_exp.job.preflight import check_folders, check_room
from lowrank_exp.job.signals import raise_received
from lowrank_exp.job.taking import leave_phase
from lowrank_exp.job.timer import Timer
from lowrank_exp.job.unfinished import Place
from lowrank_exp.machine.environment import describe_conditions, describe_environment
from lowrank_exp.machine.stopwatch import stopwatch
from lowrank_exp.phases.collapse import UNTRAINED, Measured, ruined
from lowrank_exp.phases.phase import Done, Setting
from lowrank_exp.rank import Plan, TimeStore
from lowrank_exp.text.estimate import Estimate
from lowrank_exp.training import resolve_device
from lowrank_exp.training.checkpoint import DamagedCheckpointError
from lowrank_exp.training.generators import seed_all, undisturbed


class NetworkJob:
    """One job: its phases one after the other, what is stored and logged of them, and its result."""

    def __init__(
        self,
        cfg: DictConfig,
        config: dict[str, Any],
        folder: Path,
        labels: Mapping[str, str | None],
        console: Console,
        place: Place,
    ) -> None:
        self.cfg, self.config, self.folder, self.labels, self.console = cfg, config, folder, labels, console
        self.place = place
        self.device = str(resolve_device(cfg.device))
        here = describe_conditions(self.device)
        self.exact = here if cfg.store.exact else None
        self.store = OutcomeStore(Path(cfg.paths.store), console.say, self.exact)
        self.timer = Timer(cfg.latency, self.device)
        self.parts = Parts(cfg, config, self.device, console.say)
        self.meter = PhaseMeter(cfg, self.parts, self.store, self.timer, self.device, here)
        self.watch = Watch.of_job(cfg, self.parts.steps)
        self.files: Path | None = None  # of the network after the last finished phase
        self.epochs: dict[str, int] = {}  # that finished phases have trained
        self.accuracies: dict[str, tuple[float | None, float | None]] = {}  # after them, on test and validation images

    def run(self, identity: Mapping[str, Any]) -> Result:
        """The whole job, or what is missing of a finished one."""
        if (result := self.read_finished(identity["fingerprint"])) is not None:
            self.console.finished()
        else:
            result = self.run_whole(identity)
        return self.make_exporter().export_missing(result)

    def run_until(self, last: str) -> None:
        """The phases up to one, stored for the jobs that share them; nothing is logged."""
        check_folders({"paths.store": Path(self.cfg.paths.store)})
        names = [step.name for step in self.parts.steps]
        self.parts.steps = self.parts.steps[: names.index(last) + 1]
        self.run_phases(Log(None, self.console.say))

    def run_whole(self, identity: Mapping[str, Any]) -> Result:
        """Phases, figures, files: all but those that are exported."""
        store = Path(self.cfg.paths.store)
        check_folders({"paths.outputs": self.folder, "paths.store": store})
        if (allowed := tell_of_sharing(store)) is not None:
            self.console.say(f"{store} is shared with other hosts: {allowed}")
        first = [] if self.parts.first is None else [self.parts.first]
        note_phases(self.folder, [self.store.folder(s.name, s.key).name for s in (*first, *self.parts.steps)])
        missing = [step for step in (*first, *self.parts.steps) if self.store.read(step.name, step.key) is None]
        if missing:
            leave_phase(self.store.lock(missing[0].name, missing[0].key))
        if any(step.phase.trains for step in missing):
            check_room(store, self.parts.initial)
        log = Log.of_job(self.cfg, self.config, self.folder, self.labels, identity["fingerprint"], self.console.say)
        failed = True
        try:
            first = self.measure_initial()
            phases, plan, network = self.run_phases(log)
            dense = self.parts.dense.result([*first, *phases], self.epochs)
            losses = self.measure_losses()
            plan = None if plan is None else plan.with_losses(losses)
            dense_network = self.parts.make_dense_network()
            layers = layer_results(dense_network, network, self.parts.example, plan, self.parts.edits, losses)
            log.layers(layers)
            log.classes(phases)
            status = "missed" if any(phase.missed for phase in phases) else "ok"
            result = Result(
                status,
                **identity,
                phases=phases,
                layers=layers,
                environment=describe_environment(self.device),
                warnings=self.warn_of_untrained(phases),
                dense=dense,
            )
            log.end(result)
            failed = False
        except Pruned:
            log.pruned()
            failed = False
            raise
        finally:
            log.finish(failed)
        applied = {phase.name for phase in phases}
        skipped = {step.name: step.key for step in self.parts.steps if step.name not in applied}
        result = replace(result, warnings=[*result.warnings, *log.warnings], skipped=skipped)
        return deliver(self.folder, keep_exports(self.folder, result), self.files, plan, self.store)

    def make_exporter(self) -> Exporter:
        """What exports the network that the job's folder holds."""
        parts = self.parts
        batch_size = self.cfg.evaluation.batch_size
        return Exporter(self.folder, parts.formats, parts.load_network, parts.data, parts.example, batch_size)

    def warn_of_untrained(self, phases: Sequence[PhaseResult]) -> list[str]:
        """A sentence where the network was at chance from the first phase on, because nothing trains it."""
        if self.parts.learnt or not phases or phases[0].accuracy is None:
            return []
        images, classes = self.parts.data.sizes["test"], self.parts.data.num_classes
        even = [images // classes + (c < images % classes) for c in range(classes)]
        return ruined([Measured("test", phases[0].accuracy, even)], {}, True, UNTRAINED)

    def dry_run(self, expected: str) -> None:
        """Plans, reachable budgets and an estimate of the time."""
        if (finished := self.read_finished(expected)) is not None:
            self.console.say("finished already; nothing would be run again")
        evaluation, latency = self.cfg.evaluation.batch_size, self.timer.seconds * len(self.timer.batch_sizes)
        untrained = self.cfg.model.get("weights") is None
        dry_run = DryRun(self.parts.initial, untrained, self.parts.data, evaluation, latency, self.console)
        first = [] if self.parts.first is None else [self.parts.first]
        for step in [*first, *self.parts.steps]:
            setting = self.make_setting(step, self.store.work(step.name, step.key))
            seed_all(setting.seed)
            if (outcome := self.store.read(step.name, step.key)) is not None:
                self.files = self.store.network(step.name, step.key)
                plan, network = self.store.plan(step.name, step.key), self.load_stored_network()
                dry_run.add_finished(step.phase, setting, plan, network, len(outcome.history))
            elif finished is not None:
                dry_run.estimates.append(Estimate(step.name))
            else:
                dry_run.rehearse(step.phase, setting)
        if latency:
            self.console.say(f"latency of every phase: {self.timer}")
        for form in self.parts.formats:
            of, _ = comparison_images(self.parts.data, evaluation)
            self.console.say(f"export at the end: {exported_path(self.folder, form)}, compared on {of} images")
        self.console.estimates(dry_run.estimates, f"{self.device}, {torch.get_num_threads()} threads")

    def read_finished(self, expected: str) -> Result | None:
        """The job's result, if all phases ended, and with what decides the numbers now; and what is asked of layers."""
        steps = [(step.name, step.key) for step in self.parts.steps]
        result = read_finished(self.folder, expected, steps, self.exact, self.console.say)
        if result is not None and self.cfg.losses.alone:
            decomposed = [layer for layer in result.layers if layer.weight_error is not None or layer.response_error]
            if all(layer.accuracy_alone is None for layer in decomposed) and decomposed:
                self.console.say("the accuracy with single layers decomposed was not measured: measured now")
                return None
        return result if result is not None and self.timer.has_timed(result, self.config["latency"]) else None

    def measure_initial(self) -> list[PhaseResult]:
        """The network that the first phase gets, measured where it is the dense one and no phase measures it."""
        if (step := self.parts.first) is None:
            return []
        raise_received()
        self.place.phase(step.name, step.phase)
        outcome, stored = self.store.take_over(step.name, step.key), True
        if outcome is None:
            outcome, stored = self.compute(step, lambda metrics: None)
        return [(self.meter.renew_latency(outcome) if stored else outcome).result(stored)]

    def run_phases(self, log: Log) -> tuple[list[PhaseResult], Plan | None, nn.Module]:
        """Every phase in order, from the store where its outcome lies there."""
        results: list[PhaseResult] = []
        plan: Plan | None = None
        for number, step in enumerate(self.parts.steps, start=1):
            raise_received()
            self.place.phase(step.name, step.phase)
            self.watch.begin(step.name, results)
            outcome, stored = self.store.take_over(step.name, step.key), True
            if outcome is None:
                self.console.phase(number, len(self.parts.steps), step.name, step.phase.told)
                outcome, stored = self.compute(step, functools.partial(self.end_epoch, log, step.name))
            if stored:
                for metrics in outcome.history:
                    log.epoch(step.name, metrics)
                outcome = self.meter.renew_latency(outcome)
            plan = self.store.plan(step.name, step.key) or (None if step.phase.begins_anew else plan)
            self.files = self.store.network(step.name, step.key)
            self.epochs[step.name] = len(outcome.history)
            self.accuracies[step.name] = (outcome.scores["accuracy"], outcome.scores["val_accuracy"])
            if outcome.applied or outcome.warnings:
                results.append(outcome.result(stored))
                log.phase(results[-1])
                self.console.row(results[-1])
            else:
                self.console.nothing_to_do(step.name)
        self.place.last()
        return results, plan, self.load_stored_network()

    def measure_losses(self) -> Losses:
        """What layers lost in the last phase that decomposed them, from the networks before and after it."""
        losses: Losses = {}
        for number, step in enumerate(self.parts.steps):
            if (plan := self.store.plan(step.name, step.key)) is None or step.phase.trains:
                continue  # what a phase lost in which weights are trained, too, is not that of a decomposition
            before = self.load_network_after(self.parts.steps[number - 1].name if number else "initial")
            after = self.load_network_after(step.name)
            losses |= losses_of_plan(before, after, plan, self.parts.data, self.cfg, self.device)
        return losses

    def end_epoch(self, log: Log, phase: str, metrics: Mapping[str, float]) -> None:
        """An epoch of a phase has ended."""
        self.place.epoch()
        log.epoch(phase, metrics)
        raise_received()
        self.watch.epoch(metrics)

    def compute(self, step: Step, on_epoch: Callable[[Mapping[str, float]], None]) -> tuple[Outcome, bool]:
        """Run one phase, store its network, and measure the network read back from the file.

        Returns what came out, or what another process has stored meanwhile, and whether it is that.
        """
        with self.store.writing(step.name, step.key, self.console.say) as folder:
            if (outcome := self.store.read(step.name, step.key)) is not None:
                return outcome, True
            seconds, setting = stopwatch(), self.make_setting(step, folder, on_epoch)
            try:
                network, done = self.run_from_last_epoch(step, setting)
            except OSError as error:  # another host that took this one for gone may have finished, and cleared up
                late = self.store.read_late(step.name, step.key) if error.errno in GONE else None
                if late is None:
                    raise
                return late, True
            seconds = seconds()
            with self.store.making(step.name, step.key) as made:
                artifact.save(network, made / NETWORK)
                if done.plan is not None:
                    self.console.base(step.name, done.plan)
                    done.plan.write(made / PLAN)
                outcome = self.meter.measure(step, made, done, seconds, self.accuracies, self.epochs)
                return self.store.publish(replace(outcome, svds=sorted(setting.svds.used)), made)

    def run_from_last_epoch(self, step: Step, setting: Setting) -> tuple[nn.Module, Done]:
        """Run one phase, from its checkpoint if one is there; from a damaged one it does not start."""
        while True:
            network = self.load_stored_network().to(self.device)
            seed_all(setting.seed)
            try:
                done = step.phase.run_(network, setting)
                return network if done.network is None else done.network, done
            except FloatingPointError as error:
                raise FloatingPointError(f"phase {step.name}: {error}") from error
            except DamagedCheckpointError as damaged:
                self.console.say(f"{step.name} starts anew: {damaged}")
                damaged.path.unlink()

    def make_setting(
        self, step: Step, folder: Path, on_epoch: Callable[[Mapping[str, float]], None] = lambda metrics: None
    ) -> Setting:
        """What a phase may use."""
        seed, store = int(step.key[:8], 16), Path(self.cfg.paths.store)
        scores, svds = store / "scores", SVDStore(store / "svd")
        parts = (self.parts.data, seed, self.device, self.console.progress, folder, scores, svds, on_epoch)
        steps = self.parts.steps
        before = steps[: steps.index(step)] if step in steps else []
        folders = {other.name: self.store.folder(other.name, other.key) for other in before}
        known = (dict(self.epochs), folders, self.load_network_after, self.parts.example, TimeStore(store / "times"))
        return Setting(step.name, *parts, *known, on_resume=functools.partial(self.console.goes_on, step.name))

    def load_network_after(self, name: str) -> nn.Module:
        """A network of its own, as the phase of that name has left it; also `initial`, as the first one got it, and
        `untrained`, as the constructor draws it."""
        with undisturbed(torch.device(self.device)):
            if name == "untrained":
                return self.parts.make_dense_network().eval()
            if name == "initial":
                return self.parts.make_initial_network().eval()
            (step,) = (step for step in self.parts.steps if step.name == name)
            return self.parts.load_network(self.store.network(name, step.key))

    def load_stored_network(self) -> nn.Module:
        """The network after the last finished phase, as its file gives it."""
        return self.parts.initial if self.files is None else self.parts.load_network(self.files)
