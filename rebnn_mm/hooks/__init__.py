"""Hooks on mmengine's runner and on the optim wrapper's optimizer."""

from rebnn_mm.hooks.balance import BalanceHook

__all__ = ["BalanceHook"]
