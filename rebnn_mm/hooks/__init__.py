"""Hooks on mmengine's runner and on the optim wrapper's optimizer."""

from rebnn_mm.hooks.balance import BalanceHook
from rebnn_mm.hooks.checkpoint import ResilientCheckpointHook
from rebnn_mm.hooks.clip import LatentClipHook
from rebnn_mm.hooks.epoch_seed import EpochSeedHook, seed_worker
from rebnn_mm.hooks.finite_loss import FiniteLossHook
from rebnn_mm.hooks.norm_statistics import NormStatisticsHook
from rebnn_mm.hooks.oscillation import OscillationHook
from rebnn_mm.hooks.resume import ResumeHook
from rebnn_mm.hooks.schedules import EDEHook, ReCUHook
from rebnn_mm.hooks.silent_decay import SilentDecayHook

__all__ = [
    "BalanceHook",
    "EDEHook",
    "EpochSeedHook",
    "FiniteLossHook",
    "LatentClipHook",
    "NormStatisticsHook",
    "OscillationHook",
    "ReCUHook",
    "ResilientCheckpointHook",
    "ResumeHook",
    "SilentDecayHook",
    "seed_worker",
]
