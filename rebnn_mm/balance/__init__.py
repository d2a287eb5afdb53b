"""The balance parameter gamma around every parameter update, for plain torch loops and for the hook alike.

Needs torch alone: :class:`rebnn_mm.hooks.BalanceHook` is what brings it to mmengine's runner.
"""

from rebnn_mm.balance.balance import Balance
from rebnn_mm.balance.layers import balanced_layers
from rebnn_mm.balance.onset import Onset
from rebnn_mm.balance.rule import BalanceRule

__all__ = ["Balance", "BalanceRule", "Onset", "balanced_layers"]
