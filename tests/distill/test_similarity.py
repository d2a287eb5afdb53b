"""BiBERT's similarity of positions, against its definition in double precision."""

import pytest
import torch

from rebnn_mm.distill import similarity_loss


def features(layers=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 6, generator=generator, dtype=torch.double) for _ in range(layers)]


def test_definition_by_loops():
    student, teacher = features(), features(4)[2:]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    total, count = 0.0, 0
    for mine, other in zip(student, teacher, strict=True):
        for n in range(2):
            kept = int(mask[n].sum())
            for h in range(3):
                parts = []
                for x in (mine, other):
                    f = x[n, :kept, 2 * h : 2 * h + 2]
                    p = f @ f.T
                    parts.append(p / p.square().sum().sqrt())
                total += float((parts[0] - parts[1]).square().sum())
                count += 1
    assert float(similarity_loss(student, teacher, 3, mask)) == pytest.approx(total / count, rel=1e-12)


def test_size_does_not_matter_and_padding_does_not_count():
    student = features()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    noisy = [5 * torch.where(mask[..., None] == 1, x, torch.randn_like(x)) for x in student]
    assert float(similarity_loss(student, noisy, 2, mask)) == pytest.approx(0, abs=1e-24)
    assert float(similarity_loss(student, [x * 0 for x in student], 2, mask)) == pytest.approx(1)


def test_only_the_student_learns_and_by_the_right_gradient():
    student, teacher = [features(1)[0].requires_grad_()], [features(2)[1].requires_grad_()]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    similarity_loss(student, teacher, 2, mask).backward()
    assert teacher[0].grad is None
    assert torch.autograd.gradcheck(lambda x: similarity_loss([x], teacher, 2, mask), student)


def test_refuses_other_depths_and_widths():
    with pytest.raises(ValueError, match="2 layers of the student, 1 of the teacher"):
        similarity_loss(features(), features(1), 2, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"the student gives \(2, 4, 6\), the teacher \(2, 4, 8\)"):
        similarity_loss(features(1), [torch.randn(2, 4, 8)], 2, torch.ones(2, 4))
