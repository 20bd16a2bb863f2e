"""Arms at one budget: shared stages, what counts as better, what is there after an interruption."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from support.squares import make_recipe

from yolo_compress.compare import collect, keep, run_comparison
from yolo_compress.config.loading import Arms, load_comparison
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Accuracy, ClassAccuracy
from yolo_compress.measure.latency import Latency
from yolo_compress.measure.matches import Matches
from yolo_compress.report.content import write_report
from yolo_compress.verdicts import ComparisonResult, Row, difference, stock_sentence, verdict


def row(name: str, ap50: list[float], kind: str = "pruned", gmacs: float = 1.0, params: int = 100) -> Row:
    accuracy = {
        seed: Accuracy(
            ap=value / 2,
            ap50=value,
            ap75=value / 3,
            ap_small=None,
            ap_medium=value,
            ap_large=value,
            images=10,
            per_class=(),
        )
        for seed, value in enumerate(ap50)
    }
    return Row(name, kind, 5, params, gmacs, accuracy, Latency(1.0, 1.0))


def test_a_difference_is_taken_seed_by_seed() -> None:
    # Each seed moves both arms by far more than they differ.
    gap = difference(row("a", [0.51, 0.71, 0.31]), row("b", [0.50, 0.695, 0.305]))
    assert gap.mean == pytest.approx(0.01)
    assert gap.error == pytest.approx(0.005 / 3**0.5)
    assert gap.counts


def test_only_seeds_that_both_have_are_compared() -> None:
    one, other = row("a", [0.5, 0.6]), row("b", [0.4])
    assert difference(one, other).seeds == 1
    assert difference(one, other).mean == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.53], "a is better than b (AP50 +9.7"),
        ([0.50, 0.51, 0.53], [0.60, 0.61, 0.62], "a is worse than b (AP50 -9.7"),
        ([0.60, 0.50, 0.55], [0.55, 0.56, 0.50], "a and b cannot be told apart"),
        ([0.60], [0.10], "a and b cannot be told apart (AP50 +50.0 points, one seed)"),
        ([], [0.10], "a and b have no seed in common yet."),
    ],
)
def test_a_verdict_takes_the_spread_into_account(one: list[float], other: list[float], says: str) -> None:
    assert verdict(row("a", one), row("b", other)).startswith(says)


@pytest.mark.parametrize(
    ("stock", "says"),
    [
        ([0.60, 0.61, 0.62], "The smaller stock model wins: stock is more accurate than the best compressed"),
        ([0.30, 0.31, 0.32], "The smaller stock model does not win"),
        ([0.49, 0.53, 0.50], "cannot be told apart in accuracy"),
    ],
)
def test_it_is_said_plainly_whether_the_smaller_stock_model_wins(stock: list[float], says: str) -> None:
    sentence = stock_sentence(
        row("ours", [0.50, 0.51, 0.52], gmacs=1.2, params=300), row("stock", stock, kind="dense")
    )
    assert says in sentence
    assert "1.20 times the multiply-accumulates" in sentence
    assert "3.00 times the parameters" in sentence


def seen(good: int, images: int = 40) -> Matches:
    """One object an image; the first ``good`` are found, each of the others is missed and guessed wrong."""
    hit = np.arange(images) < good
    return Matches(np.ones((images, 1), np.int64), (np.arange(images)[hit],), (hit[hit],))


def with_images(arm: Row, good: Sequence[int]) -> Row:
    per_class = (ClassAccuracy("a", 40, None, None, ()),)
    accuracy = {seed: replace(value, per_class=per_class) for seed, value in arm.accuracy.items()}
    return replace(arm, accuracy=accuracy, matches={seed: seen(count) for seed, count in enumerate(good)})


def test_one_seed_has_an_interval_from_the_images() -> None:
    one, other = with_images(row("a", [0.8]), [32]), with_images(row("b", [0.3]), [12])
    gap = difference(one, other)
    assert gap.mean == pytest.approx(0.5, abs=0.02)
    # 20 of 40 images decide: a binomial's error, since the same images count for both.
    assert gap.error == pytest.approx((0.25 / 40) ** 0.5, rel=0.1)
    assert gap.counts
    assert "one seed, 40 images" in str(gap)
    assert difference(one, with_images(row("c", [0.8]), [32])).error == 0


def test_spread_over_seeds_and_over_images_are_joined() -> None:
    one, other = with_images(row("a", [0.8, 0.7]), [32, 28]), with_images(row("b", [0.3, 0.4]), [12, 16])
    by_seed, alone = difference(row("a", [0.8, 0.7]), row("b", [0.3, 0.4])), difference(one, other)
    assert by_seed.error is not None
    assert alone.error is not None
    assert alone.error > by_seed.error


def test_a_verdict_says_on_which_parts_of_the_images_an_arm_is_behind() -> None:
    one, other = with_images(row("a", [0.5]), [20]), with_images(row("b", [0.6]), [24])
    said = verdict(one, other, {"early": range(20), "late": range(20, 40)})
    assert "early +0.0" in said
    assert said.endswith("behind on late.")


def test_a_class_left_out_is_in_no_average() -> None:
    classes = tuple(ClassAccuracy(name, 3, None, ap50, ()) for name, ap50 in (("a", 0.5), ("rare", 0.1)))
    whole = row("a", [0.3])
    arm = replace(whole, accuracy={0: replace(whole.accuracy[0], per_class=classes)}, left_out=("rare",))
    assert arm.ap50_of(0) == 0.5
    assert [arm.class_ap50(index) for index in (0, 1)] == [0.5, 0.1]


def test_of_two_equally_accurate_models_the_cheaper_is_advised() -> None:
    ours, stock = row("ours", [0.5, 0.6]), row("stock", [0.6, 0.5], kind="dense", gmacs=0.9)
    assert stock_sentence(ours, stock).endswith("take stock, the cheaper.")
    assert stock_sentence(ours, replace(stock, gmacs=1.1)).endswith("take ours, the cheaper.")


def test_the_spread_is_the_standard_deviation_over_the_seeds() -> None:
    assert row("a", [0.50, 0.52, 0.54]).ap50() == "52.0 ± 2.0"
    assert row("a", [0.50]).ap50() == "50.0"
    assert row("a", [0.50, 0.52]).mean("ap_small") is None


@pytest.fixture(scope="module")
def comparison_file(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    recipe = make_recipe(folder / "unused", dataset).model_dump(mode="json")
    (folder / "base.yaml").write_text(yaml.safe_dump(recipe))
    content = {
        "base": "base.yaml",
        "output": str(folder / "out"),
        "seeds": [0, 1],
        "ratio_to": "dense",
        "set": {"evaluate.latency_rounds": 2},
        "arms": {
            "dense": {
                "teacher.train.epochs": 3,
                "sparsify": None,
                "prune": None,
                "distill": None,
            },
            "sibling": {
                "teacher": {"width": 0.125, "train": {"epochs": 3}},
                "sparsify": None,
                "prune": None,
                "distill": None,
            },
            "none": {"distill.method": "none"},
            "cwd": {},
        },
        "verdicts": [["cwd", "none"]],
        "parts": ["val"],
    }
    path = folder / "comparison.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


Finished = tuple[Arms, ComparisonResult, ComparisonResult, str, Path]


@pytest.fixture(scope="module")
def finished(comparison_file: Path) -> Finished:
    """Do the first seed alone, look, then do all."""
    arms = load_comparison(comparison_file)
    run_comparison(arms, Console(quiet=True), seed=0)
    half = collect(arms)
    shown = io.StringIO()
    whole = run_comparison(arms, Console(file=shown, width=100))
    return arms, half, whole, shown.getvalue(), arms.base.output


def test_what_is_there_can_be_shown_before_the_end(finished: Finished) -> None:
    _, half, _, _, _ = finished
    assert [row.name for row in half.rows] == ["teacher", "dense", "sibling", "none", "cwd"]
    assert all(list(row.accuracy) == [0] for row in half.rows)
    assert set(half.missing) == {(row.name, 1) for row in half.rows}
    assert "Not there yet: teacher (seed 1), dense (seed 1)" in half.sentences()[-1]


def test_finished_stages_are_not_done_again(finished: Finished) -> None:
    shown = finished[3]
    first, second = shown.split("seed 1, teacher")
    assert "epoch" not in first
    assert first.count("skipped") == 7
    assert "epoch" in second


def test_stages_that_arms_share_are_done_once_a_seed(finished: Finished) -> None:
    output = finished[4]
    for seed in (0, 1):
        folders = [path for path in (output / f"seed{seed}").iterdir() if path.is_dir()]
        stages = sorted(folder.name.partition("-")[0] for folder in folders)
        assert stages == ["dense"] * 3 + ["distilled"] * 2 + ["pruned", "sparse"]
    records = [json.loads(path.read_text()) for path in output.glob("seed*/dense-*/stage.json")]
    assert len({record["checkpoint_sha256"] for record in records}) == 6  # the seeds do differ


def test_every_arm_has_figures_for_every_seed_and_the_ratio_refers_to_the_arm_named(
    finished: Finished,
) -> None:
    _, _, whole, _, output = finished
    assert not whole.missing
    rows = {row.name: row for row in whole.rows}
    assert all(list(row.accuracy) == [0, 1] for row in whole.rows)
    assert rows["dense"].latency is not None
    assert rows["dense"].latency.ratio == 1
    assert all(row.latency is not None and row.latency.ms > 0 for row in whole.rows)
    assert {row.name: row.kind for row in whole.rows} == {
        "teacher": "dense",
        "dense": "dense",
        "sibling": "dense",
        "none": "pruned",
        "cwd": "pruned",
    }
    assert rows["teacher"].epochs == 1
    assert rows["cwd"].epochs == 3
    assert rows["cwd"].gmacs <= 0.4 * rows["dense"].gmacs
    assert rows["sibling"].gmacs < 0.5 * rows["dense"].gmacs
    figures = json.loads((output / "comparison.json").read_text())
    assert figures["arms"]["cwd"]["seeds"]["1"]["ap50"] == rows["cwd"].accuracy[1].ap50


def test_table_sentences_plot_and_page_are_written(finished: Finished) -> None:
    _, _, whole, _, output = finished
    text = (output / "comparison.md").read_text()
    for name in ("dense", "sibling", "none", "cwd"):
        assert f"\n| {name} | 3 |" in text
    assert "smaller stock model" in text
    assert "cwd and none" in text or "cwd is" in text
    assert (output / "accuracy_cost.png").stat().st_size > 5000
    assert "<svg" in (output / "accuracy_cost.svg").read_text()
    page = write_report(output).read_text()
    assert "data:image/svg+xml;base64," in page
    assert "smaller stock model" in page
    assert 'src="http' not in page
    shown = io.StringIO()
    Console(file=shown, width=80).print(*whole.tables())
    assert "…" not in shown.getvalue()


@pytest.mark.parametrize(
    ("piece", "says"),
    [({"arm": "cdw"}, "--arm cdw: .* teacher, dense, sibling, none, cwd"), ({"seed": 7}, "seeds are 0, 1")],
)
def test_a_piece_that_is_none_of_the_comparison_is_refused(
    piece: dict[str, Any], says: str, comparison_file: Path
) -> None:
    with pytest.raises(UserError, match=says):
        run_comparison(load_comparison(comparison_file), Console(quiet=True), **piece)


def test_nothing_to_collect_is_an_error(comparison_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing of this comparison is in"):
        collect(load_comparison(comparison_file, [f"output={tmp_path}"]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("arms.cwd.distill.train.epochs=2", "must train for the same number of epochs.*dense 3.*cwd 4"),
        ("arms.cwd.threads=1", "the arm cwd changes threads.*teacher, sparsify"),
        ("arms.cwd.prune.ratio=1", r"(?s)the arm cwd of .*prune\.ratio: unknown key"),
        ("seeds=[0,0]", "names a seed twice"),
        ("ratio_to=parent", "no arm 'parent'; the arms are dense, sibling, none, cwd"),
        ("arm=x", "arm: unknown key"),
        ("base=nothing.yaml", r"cannot read the recipe .*nothing\.yaml"),
    ],
)
def test_a_comparison_that_is_not_fair_or_not_there_is_refused(
    change: str, says: str, comparison_file: Path
) -> None:
    with pytest.raises(UserError, match=says):
        load_comparison(comparison_file, [change])


def test_other_keys_change_the_base_of_all_arms(comparison_file: Path) -> None:
    arms = load_comparison(comparison_file, ["threads=1", "seeds=[4]"])
    assert arms.comparison.seeds == (4,)
    assert {recipe.threads for recipe in arms.recipes.values()} == {1}
    assert {recipe.evaluate.latency_rounds for recipe in arms.recipes.values()} == {2}


def test_a_comparison_and_a_recipe_are_not_mistaken_for_each_other(comparison_file: Path) -> None:
    from yolo_compress.config.loading import load_recipe

    with pytest.raises(UserError, match="use it with `yolo-compress compare`"):
        load_recipe(comparison_file)
    with pytest.raises(UserError, match="no `arms:`, so it is no comparison"):
        load_comparison(comparison_file.with_name("base.yaml"))


def test_records_without_models_print_the_same_again(finished: Finished, tmp_path: Path) -> None:
    arms, _, whole, _, _ = finished
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- kept -->\nbe gone\n<!-- /kept -->\nafter\n")
    kept = replace(arms, comparison=arms.comparison.model_copy(update={"records": tmp_path / "kept"}))
    keep(kept, collect(arms), page)
    elsewhere = replace(kept, base=kept.base.model_copy(update={"output": tmp_path / "nothing"}))
    again = collect(elsewhere)
    assert again.markdown() == whole.markdown()
    assert again.sentences() == whole.sentences()
    assert {name for row in again.rows for name in row.channels}
    assert not list((tmp_path / "kept").rglob("*.pt"))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "be gone" not in text
    assert "](kept/kept_channels.svg)" in text
    other = {**kept.recipes, "cwd": kept.recipes["none"]}
    with pytest.raises(UserError, match="the arm cwd is of another recipe"):
        collect(replace(elsewhere, recipes=other))


def test_the_records_that_are_kept_here_are_of_the_recipes_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UAV_DATA", "/elsewhere")
    folder = Path(__file__).parents[2]
    for kept in (folder / "docs/results/records").iterdir():
        arms = load_comparison(
            folder / f"config/compress/{kept.name}.yaml", [f"output={tmp_path / 'nothing'}"]
        )
        result = collect(arms)
        assert all(row.matches.keys() == row.accuracy.keys() for row in result.rows)
        assert all(
            row.matches[seed].ap50()[0] == pytest.approx(accuracy.ap50, abs=1e-3)
            for row in result.rows
            for seed, accuracy in row.accuracy.items()
        )


def test_the_saved_comparison_describes_the_same_stages(finished: Finished) -> None:
    arms, _, _, _, output = finished
    again = load_comparison(output / "comparison.yaml")

    def dumps(arms: Arms) -> dict[str, Any]:
        return {name: recipe.model_dump(mode="json") for name, recipe in arms.recipes.items()}

    assert dumps(again) == dumps(arms)
