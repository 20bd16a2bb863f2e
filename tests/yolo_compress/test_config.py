from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from yolo_compress.config.loading import load_comparison, load_recipe
from yolo_compress.config.techniques import Distill
from yolo_compress.errors import UserError

REPOSITORY = Path(__file__).parents[2]


def minimal() -> dict[str, Any]:
    train = {"epochs": 1, "batch": 4, "lr": 0.001}
    return {
        "output": "runs/x",
        "data": {"yaml": "x.yaml"},
        "teacher": {"model": "yolov8n.yaml", "train": train},
        "sparsify": {"strength": 0.1, "train": dict(train)},
        "prune": {"target": {"macs": 0.3}},
        "distill": {"weight": 1.0, "train": dict(train)},
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.fixture
def users_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UAV_DATA", "/data/uav")
    monkeypatch.setenv("VISDRONE", "/data/visdrone")


SHIPPED = sorted((REPOSITORY / "config" / "compress").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_recipes_shipped_are_valid(path: Path, users_data: None) -> None:
    if "arms" in path.read_text() or path.stem.startswith("ablation"):
        arms = load_comparison(path)
        assert len(arms.comparison.seeds) >= 3
        assert len({recipe.output for recipe in arms.recipes.values()}) == 1
        # Ultralytics' distillation is a fair rival at the weight that Ultralytics has chosen for it.
        ways = [recipe.distill for recipe in arms.recipes.values() if recipe.distill]
        assert all(way.weight is None for way in ways if way.method == "ultralytics")
    else:
        recipe = load_recipe(path)
        trains_only = path.stem == "demo_parent"
        assert (recipe.sparsify is None) == (recipe.prune is None) == (recipe.distill is None) == trains_only


def test_the_shipped_comparison_has_every_rival_of_a_compressed_model(users_data: None) -> None:
    arms = load_comparison(REPOSITORY / "config" / "compress" / "compare_scenes.yaml").recipes
    assert arms["dense"].teacher.width is None
    assert arms["dense"].prune is arms["sibling"].prune is arms["dense"].distill is None
    assert arms["sibling"].teacher.width == 0.125
    assert arms["sibling_ultralytics"].student
    assert arms["gamma_cwd"].distill
    assert arms["gamma_cwd"].distill.method == "cwd"
    methods = {name: recipe.distill.method for name, recipe in arms.items() if recipe.distill}
    assert methods == {
        "sibling_ultralytics": "ultralytics",
        "random": "none",
        "l1": "none",
        "gamma": "none",
        "gamma_ultralytics": "ultralytics",
        "gamma_cwd": "cwd",
    }


@pytest.mark.parametrize("letter", "nsml")
@pytest.mark.parametrize("size", [640, 1024])
def test_visdrone_comes_in_every_size(letter: str, size: int, users_data: None) -> None:
    recipe = load_recipe(
        REPOSITORY / "config" / "compress" / "visdrone.yaml",
        [f"teacher.model=yolov8{letter}.pt", f"input_size={size}"],
    )
    assert recipe.output == Path(f"runs/visdrone-yolov8{letter}-{size}")
    assert recipe.data.yaml == Path("/data/visdrone/visdrone.yaml")
    assert recipe.device == "0"


def test_an_environment_variable_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UAV_DATA", raising=False)
    with pytest.raises(UserError, match=r"uses \$\{UAV_DATA\}; say what it is: UAV_DATA="):
        load_recipe(REPOSITORY / "config" / "compress" / "hit_uav.yaml")


def test_a_recipe_changes_only_what_it_says_of_the_one_that_it_extends(tmp_path: Path) -> None:
    parent = minimal()
    parent["data"] = {"yaml": "x.yaml"}
    (tmp_path / "parents").mkdir()
    write(tmp_path / "parents", parent)
    child = {
        "extends": "parents/recipe.yaml",
        "output": "runs/{model}-{input_size}",
        "distill": {"train": {"epochs": 9}},
        "teacher.train.lr": 0.5,
        "sparsify": None,
    }
    recipe = load_recipe(write(tmp_path, child), ["teacher.train.epochs=3"])
    assert recipe.distill
    assert (recipe.distill.train.epochs, recipe.distill.train.batch, recipe.distill.weight) == (9, 4, 1.0)
    assert recipe.sparsify is None
    assert recipe.teacher.train
    assert (recipe.teacher.train.lr, recipe.teacher.train.epochs) == (0.5, 3)
    assert recipe.output == Path("runs/yolov8n-640")
    assert recipe.epochs == 12


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="extends itself"):
        load_recipe(write(tmp_path, {"extends": "recipe.yaml"}))


def test_the_epochs_of_a_teacher_that_is_no_ancestor_do_not_count(tmp_path: Path) -> None:
    changes = ["sparsify=null", "prune=null", "student.model=yolov8n.yaml"]
    train = ["epochs=5", "batch=1", "lr=0.1"]
    recipe = load_recipe(write(tmp_path, minimal()), [*changes, *(f"student.train.{text}" for text in train)])
    assert recipe.epochs == 5 + 1


def test_overrides_reach_nested_keys_with_their_types(tmp_path: Path) -> None:
    path = write(tmp_path, minimal())
    recipe = load_recipe(path, ["distill.train.epochs=7", "prune.target.macs=0.5", "data.yaml=y.yaml"])
    assert recipe.distill
    assert recipe.prune
    assert (recipe.distill.train.epochs, recipe.prune.target.macs) == (7, 0.5)
    assert recipe.data.yaml == Path("y.yaml")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "prune.target.mac=0.5",
            r"target\.mac: unknown key; did you mean macs\? allowed here: params, macs, latency, channels",
        ),
        ("prune.target.params=0.5", r"exactly one of params, macs, latency and channels"),
        ("prune.target={}", r"exactly one of params, macs, latency and channels"),
        ("prune.importance=tailor", r"prune\.importance: .*'gamma', 'gamma_group', 'l1', 'l2' or 'random'"),
        ("prune.sensitivity=true", r"set prune\.scope: global"),
        ("prune.max_ratio=1", r"prune\.max_ratio: .*less than 1"),
        ("sparsify.schedule=cosine", r"sparsify\.schedule: .*'decay', 'constant' or 'ramp'"),
        ("sparsify.mode=subgradient", r"subgradient does nothing with AdamW.*optimizer: SGD"),
        ("quantize=true", r"quantize: unknown key; .*allowed here: output, seed"),
        ("distill.train.lr=fast", r"distill\.train\.lr: .*number.*not 'fast'"),
        ("prune.target.macs=1.5", r"prune\.target\.macs: .*less than 1, not 1\.5"),
        ("prune.round_to=5", r"prune\.round_to: .*8, 16 or 32, not 5"),
        ("sparsify.train.optimizer=Adam", r"sparsify\.train\.optimizer: .*'AdamW' or 'SGD', not 'Adam'"),
        ("distill.train.augment.mosiac=1", r"distill\.train\.augment\.mosiac: .*'mosaic'"),
        ("input_size=100", r"input_size: 100 is no positive multiple of 32"),
        ("teacher.train=null", r"yolov8n\.yaml.*has no weights yet.*`train`"),
        ("teacher.model=yolov8n.onnx", r"yolov8n\.onnx.*neither a checkpoint"),
        ("data.scenes.train=3", r"data\.scenes\.val: missing \(images to measure on"),
        ("data.yaml=null", r"exactly one of data\.yaml .* and data\.scenes"),
        ("distill.method=cdw", r"distill\.method: .*'cwd', 'logits', 'ultralytics' or 'none', not 'cdw'"),
        ("distill.levels=[0,0,0]", r"distill\.levels are all 0; for no distillation say method: none"),
        ("distill.levels=[1,-1,1]", r"distill\.levels\.1: "),
        ("distill.levels=[1,1]", r"distill\.levels: .*at least 3 items.*not \[1, 1\]"),
        ("distill.small_objects=1", r"distill\.small_objects: .*less than 1, not 1"),
        ("distill.off_last_epochs=1", r"distill\.off_last_epochs 1 leave nothing of the 1 epochs"),
        ("distill.normalize=layer", r"distill\.normalize: .*'none', 'batch' or 'instance'"),
        ("prune=null", r"`sparsify` prepares a model for pruning"),
        ("prune=null sparsify=null", r"`distill` needs a smaller model to train: give `prune`"),
        ("teacher.width=0.1 teacher.model=x.pt", r"`width` builds a new architecture, but 'x\.pt'"),
        ("student.model=x.pt", r"set sparsify and prune to null"),
        ("output=runs/{date}", r"may hold \{model\} and \{input_size\}, not what 'runs/\{date\}' does"),
        ("prune.target.macs.x=1", r"prune\.target\.macs\.x: macs is a value"),
        ("prune.target.macs", r"not of the form key=value"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_is_allowed(override: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe(write(tmp_path, minimal()), override.split())


def test_a_share_of_each_layer_has_no_global_ranking(tmp_path: Path) -> None:
    changes = ["prune.target={channels: 0.5}", "prune.scope=global"]
    with pytest.raises(UserError, match=r"prune\.target\.channels is a share of each layer"):
        load_recipe(write(tmp_path, minimal()), changes)
    recipe = load_recipe(write(tmp_path, minimal()), changes[:1])
    assert recipe.prune
    assert recipe.prune.target.share == 0.5


def test_every_finding_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, minimal()), ["prune.target.macs=2", "distill.weight=-1"])
    assert "prune.target.macs" in str(error.value)
    assert "distill.weight" in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"), [("a: [", "no valid YAML"), ("- 1", "must be a mapping"), ("", "must be a mapping")]
)
def test_a_file_that_is_no_recipe_is_refused(content: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the recipe .*nothing\.yaml: No such file"):
        load_recipe(tmp_path / "nothing.yaml")


def test_every_key_is_described() -> None:
    from yolo_compress.config import sections as config

    sections = [c for c in vars(config).values() if isinstance(c, type) and issubclass(c, config.Section)]
    assert len(sections) > 5
    for section in sections:
        assert section.__doc__
        for name, field in section.model_fields.items():
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, config.Section)
            assert nested or field.description, f"{section.__name__}.{name}"


def test_the_papers_way_is_one_word(users_data: None) -> None:
    path = REPOSITORY / "config" / "compress" / "hit_uav.yaml"
    best, paper = load_recipe(path), load_recipe(path, ["recipe=paper"])
    assert best.sparsify
    assert best.prune
    assert (best.sparsify.mode, best.prune.importance, best.prune.scope) == ("fade", "lamp", "global")
    assert paper.sparsify
    assert paper.prune
    assert paper.distill
    assert (paper.sparsify.mode, paper.sparsify.schedule) == ("proximal", "decay")
    assert (paper.prune.importance, paper.prune.scope, paper.distill.method) == ("gamma", "uniform", "cwd")
    assert (paper.epochs, paper.prune.target) == (best.epochs, best.prune.target)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [({}, (1, 1)), ({"weight": [0.5, 2]}, (0.5, 2)), ({"weight": 3}, (3, 3))],
)
def test_each_of_several_methods_has_a_weight_and_its_own_temperature(
    changes: dict[str, object], weights: tuple[float, float]
) -> None:
    section = {"method": ["cwd", "logits"], "train": {"epochs": 1, "batch": 1, "lr": 0.1}, **changes}
    settings = Distill.model_validate(section)
    assert settings.weights == weights
    assert settings.in_force()["temperature"] == [4, 1]
    with pytest.raises(ValueError, match=r"distill\.weight has 1 values for the methods cwd, logits"):
        Distill.model_validate({**section, "weight": [1]})


def test_a_key_of_an_earlier_version_is_read_with_a_notice_and_names_the_same_stage() -> None:
    section = {"train": {"epochs": 1, "batch": 1, "lr": 0.1}}
    today = Distill.model_validate({**section, "normalize": "instance"})
    with pytest.warns(FutureWarning, match="normalise is now called normalize"):
        earlier = Distill.model_validate({**section, "normalise": "instance"})
    assert earlier == today
    assert today.in_force()["normalise"] == "instance"
