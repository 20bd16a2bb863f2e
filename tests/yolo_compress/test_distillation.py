from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.squares import make_model, make_recipe

from yolo_compress.checkpoints import load_model, save_model, trained_model
from yolo_compress.config.base import Training
from yolo_compress.config.techniques import Distill
from yolo_compress.distillation import trainer as distillation
from yolo_compress.distillation.distillers import Connectors, FrozenTeacher, detect_widths, distiller_of
from yolo_compress.distillation.losses import (
    cwd_loss,
    distillation_rate,
    object_cells,
    object_prior,
    rebalanced,
    response_loss,
)
from yolo_compress.distillation.trainer import DistillationTrainer, distill
from yolo_compress.errors import UserError
from yolo_compress.pruning.pruner import prune_uniformly
from yolo_compress.training import StageContext


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


def test_a_uniform_prior_of_any_scale_is_plain_cwd() -> None:
    plain = cwd_loss(maps(1), maps(2), 2.0)
    for scale in (0.05, 1.0, 30.0):
        found = cwd_loss(maps(1), maps(2), 2.0, torch.full((2, 4, 5), scale))
        torch.testing.assert_close(found, plain)


def test_cwd_with_a_prior_is_the_stated_formula() -> None:
    student, teacher, temperature = maps(1), maps(2), 3.0
    prior = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(3)) + 0.1
    total = 0.0
    for image in range(2):
        weights = prior[image].flatten().double()
        for s, t in zip(student[image].double(), teacher[image].double(), strict=True):
            p, q = (weights * (z.flatten() / temperature).exp() for z in (t, s))
            p, q = p / p.sum(), q / q.sum()
            total += float((p * (p / q).log()).sum())
    assert cwd_loss(student, teacher, temperature, prior) == pytest.approx(
        total * temperature**2 / 6, rel=1e-4
    )


@given(seed=st.integers(0, 1000), share=st.floats(0, 0.95))
@settings(max_examples=25, deadline=None)
def test_cwd_with_a_prior_stays_a_divergence(seed: int, share: float) -> None:
    cells = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) < 0.2
    prior = object_prior(cells, share)
    assert cwd_loss(maps(seed), maps(seed), 1.0, prior) == pytest.approx(0, abs=1e-6)
    assert cwd_loss(maps(seed), maps(seed + 1), 1.0, prior) > 0
    shifted = maps(seed) + torch.tensor([5.0, 0.0, -5.0]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(
        cwd_loss(shifted, maps(seed + 1), 1.0, prior), cwd_loss(maps(seed), maps(seed + 1), 1.0, prior)
    )


def boxes(*xywh_and_image: tuple[float, float, float, float, int]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.tensor(xywh_and_image).reshape(-1, 5)
    return rows[:, :4], rows[:, 4:]


def test_object_cells_are_those_that_a_box_touches_in_its_own_image() -> None:
    # On 8 x 8 cells of 1/8: one box within a cell, one over 2 x 3 cells, one that ends on borders of cells.
    given_boxes = boxes(
        (0.0625, 0.0625, 0.01, 0.01, 0),
        (0.5, 0.8125, 0.05, 0.13, 1),
        (0.1875, 0.1875, 0.125, 0.125, 1),
    )
    cells = object_cells(*given_boxes, images=3, height=8, width=8)
    assert cells.shape == (3, 8, 8)
    assert [tuple(c) for c in cells.nonzero().tolist()] == [
        (0, 0, 0),
        (1, 1, 1),
        (1, 5, 3),
        (1, 5, 4),
        (1, 6, 3),
        (1, 6, 4),
        (1, 7, 3),
        (1, 7, 4),
    ]


def test_every_small_object_has_a_cell_on_the_coarsest_map() -> None:
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(50, 2, generator=generator)
    sizes = torch.full((50, 2), 4 / 640)
    for index in range(50):
        cells = object_cells(
            torch.cat([centers, sizes], 1)[index : index + 1],
            torch.zeros(1, 1),
            images=1,
            height=20,
            width=20,
        )
        x, y = (centers[index] * 20).long().tolist()
        assert cells[0, y, x]


@pytest.mark.parametrize(("side", "counts"), [(95.9, True), (96.1, False)])
def test_objects_from_coco_s_large_on_are_left_out_whatever_the_input_s_size(
    side: float, counts: bool
) -> None:
    # Shares of the input: 96 pixels of 640, which is 154 of 1024.
    for height, width in ((80, 80), (128, 128), (6, 10)):
        cells = object_cells(*boxes((0.5, 0.5, side / 640, side / 640, 0)), 1, height, width)
        assert bool(cells.any()) == counts


def test_no_objects_give_no_cells_and_the_uniform_prior() -> None:
    cells = object_cells(torch.zeros(0, 4), torch.zeros(0, 1), images=2, height=3, width=4)
    assert cells.shape == (2, 3, 4)
    assert not cells.any()
    torch.testing.assert_close(object_prior(cells, 0.7), torch.full((2, 3, 4), 1 / 12))


def test_object_prior_gives_the_cells_their_share_and_each_image_one() -> None:
    cells = torch.zeros(3, 2, 5, dtype=torch.bool)
    cells[0, 0, :2] = True  # 2 of 10
    cells[1, :, :4] = True  # 8 of 10: more than the share without help
    cells[2] = True
    prior = object_prior(cells, 0.6)
    torch.testing.assert_close(prior.sum((1, 2)), torch.ones(3))
    torch.testing.assert_close(prior[0][cells[0]], torch.full((2,), 0.3))
    torch.testing.assert_close(prior[0][~cells[0]], torch.full((8,), 0.05))
    torch.testing.assert_close(prior[1:], torch.full((2, 2, 5), 0.1))
    torch.testing.assert_close(object_prior(cells, 0.0), torch.full((3, 2, 5), 0.1))


def test_the_prior_makes_a_mistake_on_an_object_weigh_more() -> None:
    teacher = torch.zeros(1, 1, 4, 5)
    cells = torch.zeros(1, 4, 5, dtype=torch.bool)
    cells[0, 1, 1] = True
    on, off = teacher.clone(), teacher.clone()
    on[0, 0, 1, 1] = off[0, 0, 3, 3] = -1.0
    losses = [[float(cwd_loss(z, teacher, 1.0, object_prior(cells, s))) for s in (0, 0.5)] for z in (on, off)]
    (on_plain, on_weighted), (off_plain, off_weighted) = losses
    assert on_plain == pytest.approx(off_plain)
    assert on_weighted > 5 * on_plain
    assert off_weighted < off_plain


def test_levels_are_rebalanced_towards_the_larger_gap_and_keep_their_sum() -> None:
    assert rebalanced([1, 1, 1], [2.0, 1.0, 1.0]) == pytest.approx([1.5, 0.75, 0.75])
    assert rebalanced([2, 1, 0], [1.0, 1.0, 9.0]) == pytest.approx([2, 1, 0])
    assert rebalanced([1, 2, 3], [0.3, 0.3, 0.3]) == pytest.approx([1, 2, 3])
    assert rebalanced([1, 2, 3], [0.0, 0.0, 0.0]) == [1, 2, 3]


def test_distillation_warms_up_and_ends_before_the_training() -> None:
    rates = [distillation_rate(epoch, 8, warmup=3, off_last=2) for epoch in range(8)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert [distillation_rate(epoch, 3, 0, 0) for epoch in range(3)] == [1.0, 1.0, 1.0]


def answers(seed: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "scores": torch.randn(2, 3, 6, generator=generator) * scale,
        "boxes": torch.randn(2, 4 * 5, 6, generator=generator) * scale,
    }


def test_response_loss_is_the_stated_formula() -> None:
    student, teacher, t = answers(1), answers(2), 2.0
    total = confidences = 0.0
    for image in range(2):
        for anchor in range(6):
            score_s, score_t = (a["scores"][image, :, anchor].double() for a in (student, teacher))
            confidence = float(score_t.sigmoid().max())
            p, q = (score_t / t).sigmoid(), (score_s / t).sigmoid()
            total += float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum())
            for side in range(4):
                d, e = (
                    (a["boxes"][image, 5 * side : 5 * side + 5, anchor].double() / t).softmax(0)
                    for a in (teacher, student)
                )
                total += confidence / 4 * float((d * (d / e).log()).sum())
            confidences += confidence
    assert response_loss(student, teacher, t) == pytest.approx(t**2 * total / confidences, rel=1e-4)


def test_response_loss_is_zero_for_equal_answers_and_pulls_the_student_only() -> None:
    teacher = {k: v.requires_grad_() for k, v in answers(2).items()}
    same = {k: v.detach().clone().requires_grad_() for k, v in teacher.items()}
    assert response_loss(same, teacher, 1.0).item() == pytest.approx(0, abs=1e-5)
    student = {k: v.requires_grad_() for k, v in answers(1).items()}
    loss = response_loss(student, teacher, 1.0)
    loss.backward()
    assert loss > 0
    assert all(v.grad is not None and v.grad.abs().sum() > 0 for v in student.values())
    assert all(v.grad is None for v in teacher.values())


def test_response_loss_is_finite_at_the_ends_of_fp16() -> None:
    student = {k: (v.sign() * 60000).half().requires_grad_() for k, v in answers(1).items()}
    teacher = {k: -v.detach() for k, v in student.items()}
    loss = response_loss(student, teacher, 1.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(v.grad.isfinite().all() for v in student.values())


@pytest.mark.parametrize(("normalize", "over"), [("batch", (0, 2, 3)), ("instance", (2, 3))])
def test_connectors_take_the_scale_out_of_the_features(normalize: str, over: tuple[int, ...]) -> None:
    connectors = Connectors([3], [7], normalize)
    shift = torch.tensor([5.0, -3.0]).reshape(2, 1, 1, 1)
    (student, teacher), *_ = connectors([maps(1, 100.0) + shift], [torch.randn(2, 7, 4, 5) * 0.1 + shift])
    assert student.shape == teacher.shape
    for features in (student, teacher):
        mean, variance = features.mean(over), features.var(over, correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-2, rtol=0)
        torch.testing.assert_close(variance, torch.ones_like(variance), atol=0.15, rtol=0)
        # Each image by itself has unit variance only where the statistics are its own.
        own = features.mean((2, 3)).abs().max() < 1e-2
        assert bool(own) == (normalize == "instance")


def test_connectors_without_normalization_leave_the_teacher_as_it_is() -> None:
    theirs = torch.randn(2, 7, 4, 5) * 3 + 5
    (student, teacher), *_ = Connectors([3], [7], "none")([maps(1)], [theirs])
    assert torch.equal(teacher, theirs)
    assert student.shape == theirs.shape


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


def test_teacher_gives_what_detect_would_say() -> None:
    model, images = make_model(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        _, wanted = model(images)
    found = FrozenTeacher(make_model(), torch.device("cpu")).predictions(images)
    for name in ("scores", "boxes"):
        torch.testing.assert_close(found[name], wanted[name])


TRAINING = Training(epochs=3, batch=4, lr=0.01, warmup_epochs=0, augment={"mosaic": 0})


@pytest.fixture
def student(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "student.pt"
    save_model(prune_uniformly(load_model(checkpoint), 0.5, 8), path)
    return path


def distilling(context: StageContext, teacher: Path, **section: object) -> StageContext:
    """Return the context with another section ``distill`` and a teacher."""
    recipe = make_recipe(
        context.recipe.output, context.data, distill={"train": TRAINING.model_dump(), **section}
    )
    return dataclasses.replace(context, recipe=recipe, teacher=teacher)


@pytest.mark.parametrize("method", ["cwd", "logits"])
def test_distillation_trains_the_student_and_leaves_no_trace_of_the_teacher(
    method: str, student: Path, checkpoint: Path, context: StageContext
) -> None:
    trainer = DistillationTrainer.prepare(student, TRAINING, distilling(context, checkpoint, method=method))
    trainer.train()
    before = load_model(student)
    shapes = {k: v.shape for k, v in before.state_dict().items()}
    # The pruned architecture survives the trainer, and nothing was added to it.
    for model in (trainer.model, trainer.ema.ema, trained_model(trainer.last)):
        assert {k: v.shape for k, v in model.state_dict().items()} == shapes
    assert not trainer.ema.ema.model[-1]._forward_pre_hooks
    assert getattr(trainer.ema.ema, "criterion", None) is None
    assert f"{method}_loss" in trainer.tloss
    assert not torch.equal(trainer.model.model[0].conv.weight, before.model[0].conv.weight)
    # The teacher is as it was, and no parameter of it can learn.
    teacher, original = trainer.distiller._teacher._model, load_model(checkpoint)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, original.state_dict()[key]), key
    # The connectors are in the optimizer, and moved; the teacher is not.
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in optimized for p in trainer.distiller.parameters())
    assert not any(id(p) in optimized for p in teacher.parameters())
    assert all(trainer.optimizer.state[p] for p in trainer.distiller.parameters())
    assert len(list(trainer.distiller.parameters())) == (3 if method == "cwd" else 0)


def test_the_criterion_adds_one_component_to_ultralytics_own(
    student: Path, checkpoint: Path, context: StageContext
) -> None:
    """As ``(vector times batch size, plain values by name)``, which the stock criterion returns too."""
    trainer = DistillationTrainer.prepare(student, TRAINING, distilling(context, checkpoint, weight=2.5))
    trainer.train()
    batch = trainer.preprocess_batch(next(iter(trainer.train_loader)))
    predictions = trainer.model(batch["img"])
    base, names = trainer.model.init_criterion()(predictions, batch)
    total, items = trainer.model.criterion(predictions, batch)
    assert list(items) == [*names, "cwd_loss"]
    torch.testing.assert_close(total[:-1], base)
    torch.testing.assert_close(total[-1], items["cwd_loss"] * 4)
    assert all(not value.requires_grad for value in items.values())
    pairs = trainer.distiller.connectors(
        predictions["feats"], trainer.distiller._teacher.features(batch["img"])
    )
    plain = sum(cwd_loss(s, t, 4.0) for s, t in pairs)
    torch.testing.assert_close(items["cwd_loss"], 2.5 * plain.detach())


def test_warm_up_levels_objects_and_the_last_epochs_reach_the_loss(
    student: Path, checkpoint: Path, context: StageContext
) -> None:
    section = {"levels": [1, 0, 2], "adaptive": True, "small_objects": 0.5, "off_last_epochs": 1}
    trainer = DistillationTrainer.prepare(student, TRAINING, distilling(context, checkpoint, **section))
    asked, features = [], FrozenTeacher.features

    def spy(self: FrozenTeacher, images: torch.Tensor) -> list[torch.Tensor]:
        asked.append(trainer.epoch)
        return features(self, images)

    with mock.patch.object(FrozenTeacher, "features", spy):
        trainer.train()
    assert [row["cwd_loss"] > 0 for row in trainer.history] == [True, True, False]
    assert asked == [0, 0, 1, 1]
    levels = trainer.distiller.levels
    assert levels[1] == 0
    assert sum(levels) == pytest.approx(3)
    assert levels[0] != pytest.approx(1, abs=1e-3)


def test_small_objects_change_what_is_learned_and_share_0_does_not(
    student: Path, checkpoint: Path, context: StageContext, tmp_path: Path
) -> None:
    histories = []
    for number, section in enumerate(({}, {"small_objects": 0.0}, {"small_objects": 0.5})):
        own = dataclasses.replace(distilling(context, checkpoint, **section), folder=tmp_path / str(number))
        trainer = DistillationTrainer.prepare(student, TRAINING.model_copy(update={"epochs": 1}), own)
        trainer.train()
        histories.append([row["cwd_loss"] for row in trainer.history])
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.parametrize(
    ("method", "names"),
    [("none", set()), ("ultralytics", {"dis_loss"}), ("cwd", {"cwd_loss"}), ("logits", {"logits_loss"})],
)
def test_every_method_gives_a_stock_model_of_the_student_s_shape(
    method: str, names: set[str], student: Path, checkpoint: Path, context: StageContext, tmp_path: Path
) -> None:
    own = distilling(context, checkpoint, method=method)
    result = distill(student, own)
    save_model(result, tmp_path / "result.pt")
    result = load_model(tmp_path / "result.pt")
    before = load_model(student)
    assert type(result) is type(before)
    assert {k: v.shape for k, v in result.state_dict().items()} == {
        k: v.shape for k, v in before.state_dict().items()
    }
    assert not torch.equal(result.model[0].conv.weight, before.model[0].conv.weight)
    rows = json.loads((own.folder / "history.json").read_text())
    assert {name for row in rows for name in row} - {"epoch", "lr", "seconds"} == {
        "box_loss",
        "cls_loss",
        "dfl_loss",
        *names,
    }
    assert all(row[name] > 0 for row in rows for name in names)


def test_ultralytics_distillation_has_its_own_weight_unless_the_recipe_names_one(
    student: Path, checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_arguments: list[dict[str, object]] = []
    monkeypatch.setattr(distillation, "train", lambda *_, **arguments: given_arguments.append(arguments))
    for weight in (None, 0.0, 2.5):
        distill(student, distilling(context, checkpoint, method="ultralytics", weight=weight))
    assert [arguments.get("dis") for arguments in given_arguments] == [None, 0.0, 2.5]


def test_a_teacher_of_other_classes_cannot_answer_for_the_student(
    student: Path, context: StageContext, tmp_path: Path
) -> None:
    from ultralytics.nn.tasks import DetectionModel

    save_model(DetectionModel("yolov8n.yaml", nc=5, verbose=False), tmp_path / "other.pt")
    with pytest.raises(UserError, match="the student has 2 and the teacher 5"):
        distill(student, distilling(context, tmp_path / "other.pt", method="logits"))


def test_two_methods_together_are_the_weighted_sum_under_a_teacher_that_is_asked_once() -> None:
    section = {"train": {"epochs": 1, "batch": 2, "lr": 0.1}, "method": ["cwd", "logits"], "weight": [0.5, 3]}
    settings = Distill.model_validate(section)
    student = make_model(1)
    teacher = FrozenTeacher(make_model(2), torch.device("cpu"))
    both = distiller_of(student, teacher, settings)
    assert len(list(both.parameters())) == 3  # cwd's connectors, one a level
    batch = {"img": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))}
    features = FrozenTeacher(student, torch.device("cpu"))
    with torch.no_grad(), mock.patch.object(teacher, "_model", wraps=teacher._model) as asked:
        maps_ = features.features(batch["img"])
        answers = features.predictions(batch["img"])
        total = both(maps_, answers, batch)
        cwd, logits = (one(maps_, answers, batch) for one in both._distillers)
    assert asked.call_count == 1
    assert cwd > 0
    assert logits > 0
    torch.testing.assert_close(total, 0.5 * cwd + 3 * logits)
