"""Rank policies: which rank for which layer. Functions from profiles and a budget to a plan."""

from lowrank_exp.rank.allocate import allocate
from lowrank_exp.rank.budget import Budget, BudgetError, Candidate, Choice, Problem, meet
from lowrank_exp.rank.declares import declares
from lowrank_exp.rank.enc.curves import network_quality
from lowrank_exp.rank.enc.files import profiles_from_enc
from lowrank_exp.rank.errors import with_errors
from lowrank_exp.rank.evbmf_solution import evbmf_rank
from lowrank_exp.rank.layer_profile import LayerProfile
from lowrank_exp.rank.measure import with_accuracy
from lowrank_exp.rank.needs import needs
from lowrank_exp.rank.offer import Cost, Costs, Offer
from lowrank_exp.rank.plan import Plan, PlannedLayer
from lowrank_exp.rank.profile import profile
from lowrank_exp.rank.sensitivity import with_sensitivity
from lowrank_exp.rank.timed import with_times
from lowrank_exp.rank.times.store import TimeStore
from lowrank_exp.rank.times.whole import predict_ms

__all__ = [
    "Budget",
    "BudgetError",
    "Candidate",
    "Choice",
    "Cost",
    "Costs",
    "LayerProfile",
    "Offer",
    "Plan",
    "PlannedLayer",
    "Problem",
    "TimeStore",
    "allocate",
    "declares",
    "evbmf_rank",
    "meet",
    "needs",
    "network_quality",
    "predict_ms",
    "profile",
    "profiles_from_enc",
    "with_accuracy",
    "with_errors",
    "with_sensitivity",
    "with_times",
]
