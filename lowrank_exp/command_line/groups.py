"""Groups that a job's configuration has only if one of its phases uses them."""

GROUPS = ("regularizer", "decomposition", "rank", "pruning", "reconstruct", "training", "finetune", "target")
