"""Options of the wrong kind, or out of range, are refused with a sentence."""

import inspect

import numpy as np
import pytest

from rebnn_mm import hooks
from rebnn_mm.backbones import ReBNNMobileNet, ReBNNResNet
from rebnn_mm.checks import check_number, check_whole
from rebnn_mm.errors import UserError

NO_NUMBERS = ("0.5", None, [1], True, float("nan"), float("inf"), 1j, np.float32(0.5))


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(UserError, match="x=.* must be a finite number; y"):
        check_number("x", value, hint="; y")


def test_bounds_of_a_number():
    for value in (0.5, 1, np.float64(0.5)):
        check_number("x", value, above=0)
    check_number("x", 0, least=0)
    check_number("x", None, above=0, or_none=True)
    with pytest.raises(UserError, match=r"^x=0 must be a finite number > 0, or None$"):
        check_number("x", 0, above=0, or_none=True)
    with pytest.raises(UserError, match=r"^x=1 must be a finite number >= 0.5 and < 1$"):
        check_number("x", 1, least=0.5, below=1)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.0, 0], ids=repr)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(UserError, match=r"x=.* must be a whole number >= 1; y$"):
        check_whole("x", value, hint="; y")


def test_bounds_of_a_whole_number():
    check_whole("x", 1)
    check_whole("x", -1, least=-1)
    check_whole("x", None, or_none=True)
    with pytest.raises(UserError, match=r"^x=-2 must be a whole number >= -1, or None$"):
        check_whole("x", -2, least=-1, or_none=True)


def _numeric_options():
    """Every option with a number for a default, of the hooks and backbones that a config names."""
    for kind in [getattr(hooks, name) for name in hooks.__all__] + [ReBNNResNet, ReBNNMobileNet]:
        if inspect.isclass(kind) and kind.__module__.startswith("rebnn_mm"):
            for name, option in inspect.signature(kind).parameters.items():
                if isinstance(option.default, (int, float)) and not isinstance(option.default, bool):
                    yield pytest.param(kind, name, id=f"{kind.__name__}-{name}")


@pytest.mark.parametrize(("kind", "name"), _numeric_options())
@pytest.mark.parametrize("value", ["0.5", [1], float("nan")], ids=repr)
def test_a_config_that_gives_no_number_gets_a_sentence(kind, name, value):
    with pytest.raises(UserError, match=name):
        kind(**{name: value})
