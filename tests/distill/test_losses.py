"""Losses against torch's own and against formulas in double precision; what they refuse."""

import pytest
import torch
from torch.nn import functional

from rebnn_mm.distill import feature_loss, similarity_loss, soft_cross_entropy


def pair(*shape):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(*shape, generator=generator, dtype=torch.double) for _ in range(2))
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4)])
def test_soft_cross_entropy_is_kl_divergence_plus_the_teachers_entropy(shape, temperature):
    student, teacher = pair(*shape)
    soft = functional.softmax(teacher / temperature, dim=-1)
    log_student = functional.log_softmax(student / temperature, dim=-1)
    rows = soft.numel() // shape[-1]
    kl = functional.kl_div(log_student, soft, reduction="sum") / rows
    entropy = -(soft * soft.log()).sum() / rows
    loss = soft_cross_entropy(student, teacher, temperature)
    torch.testing.assert_close(loss, (kl + entropy) * temperature**2)
    (grad,) = torch.autograd.grad(loss, student)
    # d/dz of -T^2 sum p log softmax(z / T)
    torch.testing.assert_close(grad, temperature * (log_student.exp() - soft) / rows)


def test_hard_teacher_is_the_usual_cross_entropy():
    student, _ = pair(4, 6)
    labels = torch.tensor([0, 5, 2, 2])
    certain = 1000 * functional.one_hot(labels, 6).double()
    torch.testing.assert_close(soft_cross_entropy(student, certain), functional.cross_entropy(student, labels))


def test_no_gradient_reaches_the_teacher_and_half_precision_is_lifted():
    student, teacher = pair(3, 5)
    soft_cross_entropy(student, teacher.requires_grad_()).backward()
    feature_loss([student], [teacher]).backward()
    assert teacher.grad is None and student.grad is not None
    assert soft_cross_entropy(student.half(), teacher.bfloat16()).dtype == torch.float32
    assert feature_loss([student.half()], [teacher.half()]).dtype == torch.float32


def test_feature_loss_averages_levels_whatever_their_size():
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 3, size, size, generator=generator, dtype=torch.double) for size in (8, 4)]
    others = [2 * m + 1 for m in maps]
    l2 = sum(functional.mse_loss(a, b) for a, b in zip(maps, others, strict=True)) / 2
    torch.testing.assert_close(feature_loss(maps, others), l2)
    assert feature_loss(maps, [3 * m for m in maps], "cosine").abs() < 1e-12
    torch.testing.assert_close(feature_loss(maps, [-m for m in maps], "cosine"), torch.tensor(2.0, dtype=torch.double))


@pytest.mark.parametrize("kind", ["l2", "cosine"])
def test_masked_places_do_not_count(kind):
    student, teacher = pair(2, 4, 3)  # (N, L, C)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    kept = feature_loss([student[mask.bool()]], [teacher[mask.bool()]], kind, dim=-1)
    torch.testing.assert_close(feature_loss([student], [teacher], kind, dim=-1, mask=mask), kept)
    assert feature_loss([student], [teacher], kind, dim=-1, mask=torch.zeros(2, 4)) == 0


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
def test_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="temperature=.* must be a finite number > 0"):
        soft_cross_entropy(*pair(2, 3), temperature)


def test_other_shapes_and_kinds_are_refused():
    with pytest.raises(ValueError, match=r"student gives \(2, 10\), the teacher \(2, 1000\).*same classes"):
        soft_cross_entropy(torch.zeros(2, 10), torch.zeros(2, 1000))
    with pytest.raises(ValueError, match="kind='l1' is not one of"):
        feature_loss([torch.zeros(1, 1)], [torch.zeros(1, 1)], "l1")
    with pytest.raises(ValueError, match="1 levels of the student, 2 of the teacher"):
        feature_loss([torch.zeros(1, 1)], [torch.zeros(1, 1)] * 2)
    with pytest.raises(ValueError, match="0 levels"):
        feature_loss([], [])
    with pytest.raises(ValueError, match=r"\(1, 8, 2, 2\), the teacher \(1, 16, 2, 2\)"):
        feature_loss([torch.zeros(1, 8, 2, 2)], [torch.zeros(1, 16, 2, 2)])


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_similarity_under_autocast_is_in_full_precision(dtype):
    torch.manual_seed(0)
    student, mask = [100 * torch.randn(2, 4, 8)], torch.ones(2, 4)
    teacher = [student[0] + 1e-3 * torch.randn(2, 4, 8)]
    with torch.autocast("cpu", dtype):
        found = similarity_loss(student, teacher, 2, mask)
    torch.testing.assert_close(found, similarity_loss(student, teacher, 2, mask))
