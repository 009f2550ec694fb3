"""Synthetic jobs: results with numbers that a test can compute with."""

from dataclasses import replace

from lowrank_exp.files.results import COMPLETE, PhaseResult, Result, fingerprint

PLACE = {
    "commit": "0123456789abcdef",
    "date": "2026-11-20T10:00:00",
    "machine": "box",
    "device": "cpu",
    "threads": 2,
    "versions": {"torch": "2.15.0"},
}


def make_job(
    *,
    seed: int = 0,
    row: str | None = None,
    experiment: str | None = None,
    dense: float = 0.9,
    accuracy: float | None = 0.875,
    ratio: float = 0.5,
    policy: str = "uniform",
    choices: dict[str, str] | None = None,
    status: str = "ok",
    error: str | None = None,
    warnings: tuple[str, ...] = (),
    environment: dict | None = None,
    **config: object,
) -> Result:
    """One job on a network of 1e6 MACs, 2e5 weights and 2.5e5 parameters; `config` adds top-level keys.

    `choices`: None for those of `policy`, and {} for none at all, as in results of earlier versions.
    """
    page = {
        "seed": seed,
        "decomposition": {"_target_": "lowrank_exp.decomposition.channel_svd.ChannelSVD"},
        "rank": {"_target_": f"lowrank_exp.rank.policies.{policy}.{policy}", "macs": ratio, "weights": None},
        "latency": {"batch_size": 1},
        **config,
    }
    first = PhaseResult("dense", dense, dense - 0.01, 0.3, None, 1e6, 2e5, 2.5e5, 1e6, 4.0, 10.0, "a")
    last = PhaseResult(
        "finetune", accuracy, None, 0.4, None, 1e6 * ratio, 2e5 * ratio, 2.5e5 * ratio, 1e6 * ratio, 3.0, 5.0, "b"
    )
    last = replace(last, warnings=list(warnings), missed=status == "missed")
    phases = [first, last] if status in COMPLETE else []
    place = PLACE | (environment or {})
    key = fingerprint(page)
    chosen = {"method": "decompose", "decomposition": "channel_svd", "rank": policy} if choices is None else choices
    return Result(
        *(status, key, experiment, row, seed, "decompose", page, phases, [], place, error),
        choices=chosen,
        dense=phases[0] if phases else None,
    )
