"""Where the jobs of a sweep run."""

from collections.abc import Mapping

from lowrank_exp.command_line.keys import kinds as k

_YEAR = 60 * 24 * 366
_TIME = {"minutes": k.whole(1, _YEAR), "notice": k.whole(1, 60 * _YEAR), "timeouts": k.whole(0)}
_GPUS = k.whole(0, 1024)

LAUNCHERS: dict[str, Mapping[str, k.Kind]] = {
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher": {
        "n_jobs": k.whole(1, 1024),
        "*": k.anything,  # what else joblib.Parallel takes
    },
    "lowrank_exp.job.launchers.Local": {"n_jobs": k.whole(1, 1024), "gpus": _GPUS, **_TIME},
    "lowrank_exp.job.launchers.Slurm": {
        "partition": k.or_null(k.text),
        "account": k.or_null(k.text),
        "gpus": _GPUS,
        "cpus_per_task": k.whole(1, 1024),
        "memory": k.or_null(k.number(0, above=True)),
        **_TIME,
        "width": k.whole(1),
        "after_shared": k.boolean,
        "sbatch": k.or_null(k.named(k.either(k.boolean, k.number(), k.text), "option")),
    },
}
