"""Keys of stored phases: what moved since outcomes were first stored is written in its old words."""

from lowrank_exp.job.phase_keys import by_content


def test_classes_that_moved_have_their_former_homes_at_any_depth():
    phase = {
        "_target_": "lowrank_exp.phases.Remove",
        "prune": {"_target_": "lowrank_exp.phases.Prune", "train": [{"_target_": "lowrank_exp.phases.Train"}]},
    }
    assert by_content(phase) == {
        "_target_": "lowrank_exp.pruning_phases.Remove",
        "prune": {
            "_target_": "lowrank_exp.pruning_phases.Prune",
            "train": [{"_target_": "lowrank_exp.phases.Train"}],
        },
    }


def test_options_that_have_another_name_now_keep_the_former_one():
    for name, options, former in (
        ("SFP", {"share": 0.3, "every": 1}, {"P": 0.3, "every": 1}),
        ("RePr", {"share": 0.3, "N": 3}, {"p": 0.3, "N": 3}),
        ("OneShot", {"share": 0.3}, {"rate": 0.3}),
        ("AGP", {"share": 0.5, "share_at_first": 0.1}, {"s_f": 0.5, "s_i": 0.1}),
    ):
        target = f"lowrank_exp.pruning.schedules.{name}"
        phase = {"_target_": "lowrank_exp.phases.Prune", "schedule": {"_target_": target, **options}}
        assert by_content(phase)["schedule"] == {"_target_": target, **former}
    own = {"schedule": {"_target_": "mine.SFP", "share": 0.3}}
    assert by_content(own) == own


def test_the_iterative_schedule_keeps_its_former_name():
    schedule = {"_target_": "lowrank_exp.pruning.schedules.Iterative", "macs": 0.5}
    assert by_content({"schedule": schedule})["schedule"] == {
        "_target_": "lowrank_exp.pruning.schedules.Molchanov",
        "macs": 0.5,
    }


def test_budgets_of_time_that_are_null_leave_a_key_as_it_was_before_there_were_any():
    former = {"rank": {"_target_": "lowrank_exp.rank.allocate", "policy": "knapsack", "macs": 0.5}}
    now = {"rank": former["rank"] | {"latency": None, "latency_ms": None}}
    assert by_content(now) == former
    assert by_content({"rank": now["rank"] | {"latency": 0.5}})["rank"] == former["rank"] | {"latency": 0.5}
    assert by_content({"factorize": now}) == {"factorize": former}
    target = "lowrank_exp.pruning.schedules.Iterative"
    timed = {"schedule": {"_target_": target, "macs": 0.5, "latency": None}}
    assert by_content(timed)["schedule"] == {"_target_": target.replace("Iterative", "Molchanov"), "macs": 0.5}
    timed["schedule"]["latency"] = 0.7
    assert by_content(timed)["schedule"]["latency"] == 0.7
    own = {"rank": {"_target_": "mine.rank", "latency": None}}
    assert by_content(own) == own
