from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.squares import make_model

from yolo_compress.config import Training
from yolo_compress.distillation import Connectors, DistillationTrainer, FrozenTeacher, cwd_loss, detect_widths
from yolo_compress.pruning import prune_uniformly
from yolo_compress.training import Setting, load_model, save_model


def maps(seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(seed)) * scale


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 10))
@settings(max_examples=25, deadline=None)
def test_cwd_is_zero_for_equal_maps_and_positive_for_others(seed: int, temperature: float) -> None:
    student, teacher = maps(seed), maps(seed + 1)
    assert cwd_loss(student, student, temperature) == pytest.approx(0, abs=1e-6)
    assert cwd_loss(student, teacher, temperature) > 0


@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_cwd_does_not_see_a_constant_added_to_a_channel(seed: int, shift: float) -> None:
    student, teacher = maps(seed), maps(seed + 1)
    shifted = student + torch.tensor([shift, 0.0, -shift]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(
        cwd_loss(shifted, teacher, 2.0), cwd_loss(student, teacher, 2.0), rtol=1e-3, atol=1e-4
    )


def test_cwd_is_the_published_formula() -> None:
    """Channel by channel with the plain definition of the divergence, in double precision."""
    student, teacher, temperature = maps(1), maps(2), 3.0
    total = 0.0
    for s, t in zip(student.flatten(0, 1).double(), teacher.flatten(0, 1).double(), strict=True):
        p = torch.softmax(t.flatten() / temperature, 0)
        q = torch.softmax(s.flatten() / temperature, 0)
        total += float((p * (p / q).log()).sum())
    assert cwd_loss(student, teacher, temperature) == pytest.approx(total * temperature**2 / 6, rel=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_cwd_and_its_gradient_are_finite_at_the_ends_of_fp16(temperature: float) -> None:
    student = torch.full((1, 2, 4, 4), -60000.0, dtype=torch.float16)
    student[0, 0, 1, 1] = 60000.0
    teacher = -student
    student.requires_grad_()
    loss = cwd_loss(student, teacher, temperature)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_cwd_gradient_goes_into_the_student_only() -> None:
    student, teacher = maps(1).requires_grad_(), maps(2).requires_grad_()
    cwd_loss(student, teacher, 1.0).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_cwd_refuses_maps_that_do_not_match() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\).*\(2, 3, 4, 4\)"):
        cwd_loss(maps(1), maps(1)[..., :4], 1.0)


def test_connectors_take_the_scale_out_of_the_features() -> None:
    connectors = Connectors([3], [7], "batch")
    (student, teacher), *_ = connectors([maps(1, 100.0)], [torch.randn(2, 7, 4, 5) * 0.01 + 5])
    assert student.shape == teacher.shape
    for features in (student, teacher):
        torch.testing.assert_close(features.mean((0, 2, 3)), torch.zeros(7), atol=1e-2, rtol=0)
        torch.testing.assert_close(features.var((0, 2, 3), correction=0), torch.ones(7), atol=0.15, rtol=0)


def test_teacher_gives_the_maps_that_feed_detect() -> None:
    model, image = make_model(), torch.rand(1, 3, 64, 64)
    expected = []
    model.model[-1].register_forward_pre_hook(lambda _, inputs: expected.extend(inputs[0]))
    with torch.no_grad():
        model(image)
    features = FrozenTeacher(make_model(), torch.device("cpu")).features(image)
    assert [f.shape[1] for f in features] == detect_widths(model)
    for found, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.fixture
def trained(checkpoint: Path, setting: Setting, tmp_path: Path) -> DistillationTrainer:
    student = prune_uniformly(load_model(checkpoint), 0.5, 8)
    save_model(student, tmp_path / "student.pt")
    section = Training(epochs=2, batch=4, lr=0.01, warmup_epochs=0, augment={"mosaic": 0})
    setting = dataclasses.replace(setting, teacher=checkpoint)
    trainer = DistillationTrainer.prepare(tmp_path / "student.pt", section, setting)
    trainer.train()
    return trainer


def test_distillation_trains_student_and_connectors_and_leaves_no_trace_of_the_teacher(
    trained: DistillationTrainer, checkpoint: Path, tmp_path: Path
) -> None:
    student = load_model(tmp_path / "student.pt")
    shapes = {k: v.shape for k, v in student.state_dict().items()}
    # The pruned architecture survives the trainer, and nothing was added to it.
    for model in (trained.model, trained.ema.ema, trained.result()):
        assert {k: v.shape for k, v in model.state_dict().items()} == shapes
    assert not trained.ema.ema.model[-1]._forward_pre_hooks
    assert "cwd_loss" in trained.tloss
    assert not torch.equal(trained.model.model[0].conv.weight, student.model[0].conv.weight)
    # The teacher is as it was, and no parameter of it can learn.
    teacher, original = trained.distiller._teacher._model, load_model(checkpoint)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, original.state_dict()[key]), key
    # The connectors are in the optimizer, and moved.
    optimised = {id(p) for group in trained.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in optimised for p in trained.distiller.parameters())
    assert not any(id(p) in optimised for p in teacher.parameters())
    assert all(trained.optimizer.state[p] for p in trained.distiller.parameters())
