"""Schedules of the compared methods: one number that moves from a training's start to its end."""

from __future__ import annotations

import math
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from torch import nn

from rebnn_mm.checks import check_number
from rebnn_mm.errors import UserError
from rebnn_mm.estimators import EDE
from rebnn_mm.hooks.attach import refuse_several, unwrapped
from rebnn_mm.layers import ReCULayer


class _ScheduleHook(Hook):
    """Set one attribute of every module of one type before each iteration, and log it.

    The papers step it once an epoch; here it follows ``runner.iter / runner.max_iters``, which is the same
    curve, serves iteration-based loops as well, and after a resume is where it would have been. Iterations whose
    gradients are accumulated to one update each have their own value, a smooth curve's neighbours.
    """

    # before LoggerHook, which reads what is logged
    priority = "NORMAL"
    kind: type[nn.Module]
    attribute: str
    scalar: str
    remedy: str

    def __init__(self) -> None:
        self._modules: list[Any] = []

    def value(self, progress: float) -> float:
        """The number at ``progress``, 0 at the start of training and 1 at its end."""
        raise NotImplementedError

    def before_train(self, runner) -> None:
        """Find the modules, those of averaged copies of the model, too."""
        refuse_several(self, runner.hooks)
        model = unwrapped(runner.model)
        copies = [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]
        self._modules = [m for each in (model, *copies) for m in each.modules() if isinstance(m, self.kind)]
        if not self._modules:
            raise UserError(
                f"{type(self).__name__}: the model has no {self.kind.__name__}. {self.remedy}, or remove "
                f"{type(self).__name__} from custom_hooks"
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Set the number and log it."""
        value = self.value(runner.iter / runner.max_iters)
        for module in self._modules:
            setattr(module, self.attribute, value)
        runner.message_hub.update_scalar(self.scalar, value)


@HOOKS.register_module()
class EDEHook(_ScheduleHook):
    """Sharpen IR-Net's estimators: ``t = t_min * (t_max / t_min)^progress`` (Qin et al., CVPR 2020, section 3.3).

    Scalar: ``train/ede/t``.

    Args:
        t_min: Value at the start. The authors' layers begin with 0.1, their CIFAR-10 script with 0.001.
        t_max: Value at the end.

    Raises:
        ValueError: Not ``0 < t_min <= t_max``; a model without an :class:`~rebnn_mm.estimators.EDE`.
    """

    kind = EDE
    attribute = "t"
    scalar = "train/ede/t"
    remedy = "Choose a layer with that estimator (conv_cfg=dict(type='IRNetConv2d'))"

    def __init__(self, t_min: float = 0.1, t_max: float = 10.0) -> None:
        super().__init__()
        check_number("EDEHook: t_min", t_min, above=0)
        check_number("EDEHook: t_max", t_max, least=t_min, hint=", which is t_min")
        self.t_min, self.t_max = t_min, t_max

    def value(self, progress: float) -> float:
        """Sharpness at ``progress`` in [0, 1]."""
        return self.t_min * (self.t_max / self.t_min) ** progress


@HOOKS.register_module()
class ReCUHook(_ScheduleHook):
    """Move ReCU's quantile: ``tau = tau_min + (tau_max - tau_min) * (e^progress - 1) / (e - 1)``.

    From Xu et al., ICCV 2021, the exponential scheduler. Scalar: ``train/recu/tau``.

    Args:
        tau_min: Value at the start.
        tau_max: Value at the end.

    Raises:
        ValueError: Not ``0.5 < tau_min <= tau_max < 1``; a model without a ReCU layer.
    """

    kind = ReCULayer
    attribute = "tau"
    scalar = "train/recu/tau"
    remedy = "Choose one in the config (conv_cfg=dict(type='ReCUConv2d'))"

    def __init__(self, tau_min: float = 0.85, tau_max: float = 0.99) -> None:
        super().__init__()
        check_number("ReCUHook: tau_min", tau_min, above=0.5, below=1)
        check_number("ReCUHook: tau_max", tau_max, least=tau_min, below=1, hint="; the former is tau_min")
        self.tau_min, self.tau_max = tau_min, tau_max

    def value(self, progress: float) -> float:
        """Quantile at ``progress`` in [0, 1]."""
        return self.tau_min + (self.tau_max - self.tau_min) * math.expm1(progress) / math.expm1(1.0)
