"""A teacher that stays out of its student."""

import copy

import torch
from torch import nn

from rebnn_mm.distill import FrozenTeacher


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.teacher = FrozenTeacher(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)))


def test_teacher_is_no_part_of_the_student():
    student = Student()
    assert set(student.state_dict()) == {"layer.weight", "layer.bias"} == {n for n, _ in student.named_parameters()}
    assert len(list(student.modules())) == 2


def test_teacher_stays_in_eval_mode_and_gives_no_gradient():
    student = Student().train()
    x = torch.randn(4, 3, requires_grad=True)
    before = copy.deepcopy(student.teacher.module.state_dict())
    first, second = student.teacher(x), student.teacher(x)
    assert torch.equal(first, second) and not first.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in student.teacher.module.state_dict().items())
    assert not any(p.requires_grad for p in student.teacher.module.parameters())


def test_teacher_follows_autocast_and_calls_the_named_method():
    module = nn.Linear(3, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert FrozenTeacher(module)(torch.zeros(1, 3)).dtype == torch.bfloat16
    module.twice = lambda x, times: times * module(x)
    x = torch.ones(1, 3)
    assert torch.equal(FrozenTeacher(module, "twice")(x, times=2), 2 * module(x))


def test_a_copy_has_its_own_teacher():
    student = Student()
    assert copy.deepcopy(student).teacher.module is not student.teacher.module


def test_teacher_moves_to_the_device_of_its_input():
    teacher = FrozenTeacher(nn.Linear(3, 2))
    teacher(torch.zeros(1, 3, device="meta"))
    assert teacher.module.weight.device.type == "meta"
