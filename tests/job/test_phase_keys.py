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
