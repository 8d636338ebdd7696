"""Loaded models: one copy of each, shared, and let go of when it has rested or memory is short."""

from .keeper import Keeper
from .model import PooledModel, PoolKey
from .policy import Entry, Plan, Snapshot, default_ram_budget, plan_residency
from .pool import ModelPool

__all__ = [
    "Entry",
    "Keeper",
    "ModelPool",
    "Plan",
    "PoolKey",
    "PooledModel",
    "Snapshot",
    "default_ram_budget",
    "plan_residency",
]
