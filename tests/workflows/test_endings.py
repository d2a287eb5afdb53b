"""A tool's last words: a sentence, or a traceback with a note."""

import pytest

from rebnn_mm.errors import UserError
from rebnn_mm.functional import flip_share
from rebnn_mm.workflows.endings import one_sentence


def test_ctrl_c_without_words_of_its_own(capsys):
    with pytest.raises(SystemExit) as stop, one_sentence("x"):
        raise KeyboardInterrupt
    assert stop.value.code == 130 and capsys.readouterr().err == "\nx: stopped\n"


def test_a_traceback_on_request(monkeypatch):
    monkeypatch.setenv("REBNN_MM_TRACEBACK", "1")
    with pytest.raises(UserError), one_sentence("x"):
        raise UserError("image a.jpg is empty")


def test_a_foreign_error_keeps_its_traceback_and_has_a_note():
    with pytest.raises(ValueError, match="a bug below") as caught, one_sentence("x"):
        raise ValueError("a bug below")
    assert not hasattr(caught.value, "__notes__") or "report it" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="closed by peer") as caught, one_sentence("x"):
        raise RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    assert not hasattr(caught.value, "__notes__") or "another rank" in caught.value.__notes__[0]


@pytest.mark.parametrize("where", ["here", "in a worker"])
def test_a_fault_in_our_own_code_keeps_its_traceback(where):
    """It was printed as a sentence, as the traceback ended in a file of ours."""
    with pytest.raises(AttributeError), one_sentence("x"):
        flip_share(None, None)
    with pytest.raises(SystemExit, match="^x: image a.jpg is empty") as caught, one_sentence("x"):
        if where == "here":
            raise UserError("image a.jpg is empty")
        raise UserError(
            'Caught UserError\nOriginal Traceback (most recent call last):\n  File "a"\nUserError: image a.jpg is empty'
        )
    assert "\n" not in str(caught.value)
