"""The whole way on a micro recipe, interrupted and continued."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.squares import make_recipe
from typer.testing import CliRunner
from yolo_trt_node.detector import Detector

from yolo_compress.checkpoints import load_model
from yolo_compress.cli import app
from yolo_compress.config.loading import load_recipe
from yolo_compress.errors import UserError
from yolo_compress.export.card import read_card
from yolo_compress.pruning.budget import count_macs, count_params
from yolo_compress.report.content import write_report
from yolo_compress.run.plan import plan
from yolo_compress.run.recipe import RunResult, run_recipe

STAGES = ("dense", "sparse", "pruned", "distilled")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from yolo_compress.cli import main; main()", *map(str, arguments)]


@pytest.fixture(scope="module")
def recipe_file(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    recipe = make_recipe(folder / "out", dataset)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def interrupted(recipe_file: Path) -> tuple[int, str, str]:
    """Start a run as a process, stop it by Ctrl-C amid its second stage; return exit code and output."""
    output = load_recipe(recipe_file).output
    process = subprocess.Popen(
        command("run", recipe_file, "--set", "sparsify.train.epochs=10000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        results = output / "sparse" / "history.json"
        while not results.is_file():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the second stage did not start"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
        stdout, stderr = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def finished(interrupted: object, recipe_file: Path) -> tuple[RunResult, str]:
    """Go on with the interrupted run to its end."""
    shown = io.StringIO()
    result = run_recipe(load_recipe(recipe_file), Console(file=shown, width=120))
    return result, shown.getvalue()


def test_ctrl_c_ends_with_one_sentence_and_finished_stages_are_whole(
    interrupted: tuple[int, str, str], recipe_file: Path
) -> None:
    code, stdout, stderr = interrupted
    assert code == 130
    assert "finished stages and the last whole epoch are kept in" in stdout
    assert "Traceback" not in stdout + stderr
    output = load_recipe(recipe_file).output
    record = json.loads((output / "dense" / "stage.json").read_text())
    assert record["params"] == count_params(load_model(output / "dense" / "model.pt"))
    assert Detector.load(output / "dense" / "model.onnx").card.names == ("red", "blue")


def test_run_goes_on_where_it_was_interrupted(finished: tuple[RunResult, str]) -> None:
    result, shown = finished
    assert "dense: done before, skipped" in shown
    assert shown.count("skipped") == 1
    assert [stage.name for stage in result.stages] == list(STAGES)


def test_every_stage_says_what_was_done_and_measured(finished: tuple[RunResult, str]) -> None:
    result, _ = finished
    for stage in result.stages:
        record = json.loads((stage.checkpoint.parent / "stage.json").read_text())
        model = load_model(stage.checkpoint)
        assert stage.params == record["params"] == count_params(model)
        assert stage.gmacs == record["gmacs"] == count_macs(model, 64) / 1e9
        assert record["inputs"]
        assert record["versions"]["ultralytics"]
        assert record["seconds"] > 0
        assert record["accuracy"]["images"] == 4
        assert record["accuracy"]["ap50"] == stage.accuracy.ap50 is not None
        assert record["latency"]["ms"] == stage.latency.ms > 0
    dense, _, pruned, distilled = result.stages
    assert dense.latency.ratio == 1
    assert distilled.gmacs == pruned.gmacs <= 0.4 * dense.gmacs


def test_result_tells_in_its_card_what_it_cost(finished: tuple[RunResult, str]) -> None:
    result, _ = finished
    dense, distilled = result.stages[0], result.stages[-1]
    assert result.onnx.read_bytes() == distilled.onnx.read_bytes()
    compression = read_card(result.onnx)["compression"]
    assert compression["from"] == "yolov8n.yaml"
    assert compression["params"] == [dense.params, distilled.params]
    assert compression["gmacs"] == {"at": [64, 64], "before": dense.gmacs, "after": distilled.gmacs}
    assert compression["ap50"] == {"before": dense.accuracy.ap50, "after": distilled.accuracy.ap50}
    assert compression["ap"] == {"before": dense.accuracy.ap, "after": distilled.accuracy.ap}
    assert (compression["dataset"], compression["split"], compression["images"]) == ("squares", "val", 4)
    assert read_card(dense.onnx)["compression"] is None


def test_table_fits_a_terminal_of_80_columns_and_has_a_row_a_stage(finished: tuple[RunResult, str]) -> None:
    shown = io.StringIO()
    Console(file=shown, width=80).print(finished[0].table())
    lines = shown.getvalue().splitlines()
    assert "…" not in shown.getvalue()
    for name in STAGES:
        assert sum(line.strip().startswith(name) for line in lines) == 1
    assert "GMACs@64" in shown.getvalue()


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for name in STAGES
        for path in (folder / name).rglob("*.*")
        if path.is_file()
    }


def test_second_run_skips_everything_and_says_the_same(
    finished: tuple[RunResult, str], recipe_file: Path
) -> None:
    result, _ = finished
    before = snapshot(result.recipe.output)
    done = subprocess.run(
        command("run", recipe_file), capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.count("done before, skipped") == 4
    assert "epoch" not in done.stdout
    assert snapshot(result.recipe.output) == before
    assert str(result.onnx.name) in done.stdout


def test_a_run_delivers_the_files_that_its_recipe_asks_for_once(
    finished: tuple[RunResult, str], recipe_file: Path
) -> None:
    output = finished[0].recipe.output
    wanted = ["export.precision=[fp32,int8]", "export.calibration_images=2", "export.dynamic=batch"]
    shown = io.StringIO()
    run_recipe(load_recipe(recipe_file, wanted), Console(file=shown, width=120))
    assert shown.getvalue().count("skipped") == 4
    names = ("model.onnx", "model_int8.onnx")
    for name in names:
        assert f"{name}: " in shown.getvalue()
        card = read_card(output / name)
        assert card["compression"] == read_card(output / "distilled" / "model.onnx")["compression"]
        assert card["accuracy"]["dataset"] == "squares"
        assert Detector.load(output / name).card.fixed_height == 64
    before = {name: (output / name).stat().st_mtime_ns for name in names}
    run_recipe(load_recipe(recipe_file, wanted), Console(quiet=True))
    assert {name: (output / name).stat().st_mtime_ns for name in names} == before
    (output / "model_int8.onnx").write_bytes(b"damaged")
    run_recipe(load_recipe(recipe_file, wanted), Console(quiet=True))
    assert read_card(output / "model_int8.onnx")["precision"] == "int8"
    run_recipe(load_recipe(recipe_file), Console(quiet=True))
    assert [path.name for path in output.glob("*.onnx")] == ["model.onnx"]
    assert (output / "model.onnx").read_bytes() == finished[0].onnx.read_bytes()


def test_the_export_verb_names_wrong_keys_and_writes_what_was_asked_for(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    def export(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("export", checkpoint, "--input-size", 64, "-o", tmp_path / "x.onnx", *arguments),
            capture_output=True,
            text=True,
            timeout=120,
        )

    wrong = export("--precision", "int4", "dynamik=none")
    assert wrong.returncode == 1
    assert "precision.0: input should be 'fp32', 'fp16' or 'int8', not 'int4'" in wrong.stderr
    assert "dynamik: unknown key; did you mean dynamic?" in wrong.stderr
    assert not list(tmp_path.iterdir())
    done = export("--precision", "fp16", "--data", dataset, "dynamic=none")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x_fp16.onnx"]
    assert "off torch by" in done.stdout
    assert "AP50" in done.stdout


def test_a_changed_section_repeats_its_stage_and_the_later_ones_only(
    finished: tuple[RunResult, str], recipe_file: Path
) -> None:
    shown = io.StringIO()
    result = run_recipe(load_recipe(recipe_file, ["distill.weight=2.0"]), Console(file=shown, width=120))
    assert shown.getvalue().count("skipped") == 3
    assert "distilled: done before" not in shown.getvalue()
    assert (
        result.stages[0] == finished[0].stages[0] or result.stages[0].params == finished[0].stages[0].params
    )


@pytest.mark.parametrize(("method", "repeats"), [("none", False), ("ultralytics", False), ("cwd", True)])
def test_what_a_method_of_distillation_does_not_look_at_repeats_nothing(
    method: str, repeats: bool, recipe_file: Path
) -> None:
    keys = {
        plan(load_recipe(recipe_file, [f"distill.method={method}", f"distill.temperature={t}"]))[-1].key
        for t in (1, 4)
    }
    assert (len(keys) == 2) == repeats


def test_a_folder_of_other_files_is_not_touched(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        run_recipe(make_recipe(tmp_path, dataset), Console(quiet=True))
    assert (tmp_path / "dense" / "thesis.txt").read_text() == "years of work"


def test_a_device_that_is_not_there_is_an_error_before_anything(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="device: torch finds no CUDA device 97"):
        run_recipe(make_recipe(tmp_path / "out", dataset, device="97"), Console(quiet=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that not even root can write into")
def test_an_unwritable_folder_is_an_error_before_anything(dataset: Path) -> None:
    with pytest.raises(UserError, match="cannot write into the run's folder /sys/run: "):
        run_recipe(make_recipe(Path("/sys/run"), dataset), Console(quiet=True))


def test_a_stage_s_folder_that_cannot_be_written_is_named(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    (tmp_path / "dense").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write .*dense: Not a directory; choose another output"):
        run_recipe(make_recipe(tmp_path, dataset), Console(quiet=True))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"yaml": "/nowhere/data.yaml"}, "cannot read the data set description"),
        ({"scenes": {"train": 1, "val": 1, "camera": {"altitude": 3}}}, r"data\.scenes\.camera: .*altitude"),
        (
            {"scenes": {"train": 1, "val": 1, "camera": {"density": [2, 1]}}},
            r"data\.scenes\.camera: .*density",
        ),
    ],
)
def test_unusable_data_is_an_error_before_training(
    data: dict, says: str, dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        run_recipe(make_recipe(tmp_path, dataset, data=data), Console(quiet=True))
    assert not (tmp_path / "dense").exists()


def test_a_full_disk_is_an_error_before_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50 * 2**20))
    with pytest.raises(UserError, match=r"has 50 MiB free, but this needs about \d+ MiB \(4 stages\)"):
        run_recipe(make_recipe(tmp_path / "out", dataset), Console(quiet=True))
    assert not (tmp_path / "out" / "dense").exists()


def test_an_unwritable_folder_is_an_error_before_training(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write into the run's folder .*file/out: Not a directory"):
        run_recipe(make_recipe(tmp_path / "file" / "out", dataset), Console(quiet=True))


def test_what_a_library_raises_in_a_stage_is_one_error_that_names_the_log(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*arguments: object) -> None:
        raise RuntimeError("No valid images found\n  in there")

    monkeypatch.setattr("yolo_compress.run.worker.StageWorker._do", break_down)
    recipe = make_recipe(tmp_path / "out", dataset)
    with pytest.raises(UserError, match=r"^dense: RuntimeError: No valid images found in there; ") as error:
        run_recipe(recipe, console=Console(quiet=True))
    log = tmp_path / "out" / "dense.error.log"
    assert str(log) in str(error.value)
    assert "break_down" in log.read_text()


def test_the_effective_recipe_and_the_commands_are_kept(
    finished: tuple[RunResult, str], recipe_file: Path
) -> None:
    output = finished[0].recipe.output
    assert load_recipe(output / "recipe.yaml").teacher == load_recipe(recipe_file).teacher
    commands = (output / "commands.txt").read_text()
    assert f"run {recipe_file} --set sparsify.train.epochs=10000" in commands


def test_the_report_shows_everything_in_one_file(finished: tuple[RunResult, str]) -> None:
    result, _ = finished
    page = write_report(result.recipe.output).read_text()
    for heading in (
        "Stages",
        "Files",
        "What is seen",
        "Classes",
        "Channels",
        "Gammas",
        "Losses",
        "How it was made",
    ):
        assert f"<h2>{heading}</h2>" in page
    for name in (*STAGES, "red", "blue", "torch-pruning", "sparsify.train.epochs=10000"):
        assert name in page
    assert page.count("data:image/svg+xml;base64,") == 4
    assert page.count("data:image/jpeg;base64,") == 1
    assert page.count("data:image/png;base64,") == 1
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_report_of_a_run_that_stopped_says_what_is_missing(
    finished: tuple[RunResult, str], tmp_path: Path
) -> None:
    shutil.copytree(finished[0].recipe.output, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "distilled")
    page = write_report(tmp_path / "copy").read_text()
    assert "Not finished: distilled." in page
    shutil.rmtree(tmp_path / "copy" / "dense")
    shutil.rmtree(tmp_path / "copy" / "sparse")
    shutil.rmtree(tmp_path / "copy" / "pruned")
    with pytest.raises(UserError, match=r"no stage of the run in .* is finished"):
        write_report(tmp_path / "copy")
    with pytest.raises(UserError, match="no folder of a run or a comparison"):
        write_report(tmp_path)


def test_stages_done_one_by_one_add_up_to_the_run(
    finished: tuple[RunResult, str], recipe_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(finished[0].recipe.output, output)
    shutil.rmtree(output / "distilled")
    dense, pruned = output / "dense" / "model.pt", output / "pruned" / "model.pt"
    runner = CliRunner()
    for arguments, skipped in (
        (["train", recipe_file], True),
        (["sparsify", dense, recipe_file], True),
        (["distill", pruned, recipe_file, "--teacher", dense], False),
    ):
        done = runner.invoke(app, [*map(str, arguments), "--output", str(output)])
        assert done.exit_code == 0, done.output
        assert ("done before, skipped" in done.output) == skipped
    shown = io.StringIO()
    run_recipe(load_recipe(recipe_file, [f"output={output}"]), Console(file=shown, width=120))
    assert shown.getvalue().count("skipped") == 4


def test_one_checkpoint_is_pruned_without_recipe_or_data(checkpoint: Path, tmp_path: Path) -> None:
    pruned = tmp_path / "pruned.pt"
    arguments = ["prune", checkpoint, "--macs", "0.5", "--input-size", "64", "round_to=16", "-o", pruned]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    before, after = load_model(checkpoint), load_model(pruned)
    assert count_macs(after, 64) / count_macs(before, 64) == pytest.approx(0.5, abs=0.1)
    wrong = CliRunner().invoke(app, ["prune", str(checkpoint), "round_to=5"])
    assert isinstance(wrong.exception, UserError)
    assert "round_to" in str(wrong.exception)


def test_a_stage_that_the_recipe_leaves_out_is_not_done(recipe_file: Path, checkpoint: Path) -> None:
    done = CliRunner().invoke(app, ["sparsify", str(checkpoint), str(recipe_file), "sparsify=null"])
    assert isinstance(done.exception, UserError)
    assert "leaves out the stage sparse; its stages are dense, pruned, distilled" in str(done.exception)


def test_user_errors_are_one_message_on_stderr(tmp_path: Path) -> None:
    done = subprocess.run(
        command("run", tmp_path / "nothing.yaml"), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot read the recipe")
    assert "Traceback" not in done.stderr


VERBS = ["run", "train", "sparsify", "prune", "distill", "export", "evaluate", "compare", "report", "doctor"]


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(verb: str) -> None:
    done = subprocess.run(command(verb, "--help"), capture_output=True, text=True, timeout=60, check=True)
    example = " ".join(done.stdout.split()).partition("Example: ")[2]
    assert f"yolo-compress {verb} " in example
