from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.squares import make_model
from torch import nn

from yolo_compress.errors import UserError
from yolo_compress.pruning import (
    SplitC2f,
    count_macs,
    count_params,
    merge_c2f,
    prunable_batchnorms,
    prune_to_macs,
    prune_uniformly,
    split_c2f,
)
from yolo_compress.training import save_model

from ultralytics.nn.modules import C2f  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip


def widths(model: nn.Module) -> dict[str, int]:
    return {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


@torch.no_grad()
def output(model: nn.Module, size: int = 64) -> torch.Tensor:
    torch.manual_seed(1)
    return model.eval()(torch.rand(2, 3, size, size))[0]


def test_splitting_and_merging_c2f_changes_no_output_and_no_weight() -> None:
    model = make_model()
    before, weights = output(model), {k: v.clone() for k, v in model.state_dict().items()}
    split_c2f(model)
    assert not any(type(m) is C2f for m in model.modules())
    torch.testing.assert_close(output(model), before, rtol=1e-5, atol=1e-4)
    merge_c2f(model)
    assert not any(isinstance(m, SplitC2f) for m in model.modules())
    merged = model.state_dict()
    assert list(merged) == list(weights)
    assert all(torch.equal(merged[k], weights[k]) for k in weights)


def test_merging_halves_of_different_width_is_refused() -> None:
    split = SplitC2f(C2f(8, 16))
    split.cv1_pass = SplitC2f(C2f(8, 32)).cv1_pass
    with pytest.raises(ValueError, match="16 and 8"):
        split.merged()


def test_merged_model_equals_the_pruned_split_one() -> None:
    pruned = prune_uniformly(make_model(), 0.4, 8)
    merged = output(pruned)
    split_c2f(pruned)
    torch.testing.assert_close(output(pruned), merged, rtol=1e-5, atol=1e-4)


def test_every_layer_is_pruned_but_the_ones_whose_width_has_a_meaning() -> None:
    dense = make_model()
    before = widths(dense)
    after = widths(prune_uniformly(dense, 0.5, 8))
    detect = dense.model[-1]
    kept = {f"model.{detect.i}.cv{branch}.{level}.2" for branch in (2, 3) for level in range(3)}
    kept.add(f"model.{detect.i}.dfl.conv")
    for name, width in before.items():
        if name in kept:
            assert after[name] == width, name
        else:
            assert after[name] == max(8, width // 2 // 8 * 8), name


def test_pruning_removes_the_channels_with_the_smallest_gammas() -> None:
    dense = make_model()
    with torch.no_grad():  # a layer coupled to no other, so that its own gammas decide
        dense.model[0].bn.weight.copy_(torch.arange(1.0, 17.0).flip(0))
    pruned = prune_uniformly(dense, 0.5, 8)
    assert pruned.model[0].bn.weight.tolist() == list(range(16, 8, -1))


def test_coupled_layers_decide_by_the_mean_of_their_plain_gammas() -> None:
    """No layer's gammas are rescaled before the mean over the coupled layers is taken."""
    dense = make_model()
    # A residual sum couples cv1's second half and the bottleneck's cv2.
    block = dense.model[2]
    with torch.no_grad():
        block.cv1.bn.weight[16:].copy_(torch.linspace(0.1, 0.2, 16))
        block.m[0].cv2.bn.weight.copy_(torch.linspace(20, 10, 16))
    pruned = prune_uniformly(dense, 0.5, 8)
    # The mean is dominated by the second layer, so its largest gammas stay.
    assert pruned.model[2].m[0].cv2.bn.weight.min() > 15


def test_pruning_leaves_the_model_given_as_it_is() -> None:
    dense = make_model()
    before = output(dense)
    prune_uniformly(dense, 0.5, 8)
    assert torch.equal(output(dense), before)


@pytest.mark.parametrize("ratio", [0.6, 0.8, 0.95])
def test_no_layer_is_left_whole_because_rounding_would_empty_it(ratio: float) -> None:
    pruned = widths(prune_uniformly(make_model(), ratio, 8))
    assert pruned["model.0.conv"] == 8


@pytest.mark.parametrize("share", [0.2, 1 / 3, 0.6])
def test_macs_target_is_met_and_not_overshot_by_more_than_a_step(share: float) -> None:
    dense = make_model()
    pruned = prune_to_macs(dense, share, 64, 4)
    assert pruned.dense_macs == count_macs(dense, 64)
    assert count_macs(pruned.model, 64) == pruned.macs <= share * pruned.dense_macs
    assert pruned.macs > (share - 0.1) * pruned.dense_macs
    assert count_params(pruned.model) < count_params(dense)


def test_unreachable_target_says_what_is_reachable() -> None:
    with pytest.raises(UserError, match=r"prune\.macs.*the least is 0\.\d+.*round_to"):
        prune_to_macs(make_model(), 0.01, 64, 8)


def test_published_sizes_are_reproduced() -> None:
    model = DetectionModel("yolov8n.yaml", nc=10, verbose=False)
    assert count_params(model) == 3_012_798
    assert count_macs(model, 640) / 1e9 == pytest.approx(4.08, abs=0.01)


def test_every_batchnorm_of_a_yolov8_is_prunable() -> None:
    model = make_model()
    every = [name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert prunable_batchnorms(model) == every


BARE = """
import sys
sys.modules["yolo_compress"] = None  # any import of it, also from the pickle, fails
import numpy as np, torch
from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import SAFE_LOAD
assert SAFE_LOAD
model, _ = load_checkpoint(sys.argv[1])
torch.manual_seed(1)
with torch.no_grad():
    np.save(sys.argv[2], model(torch.rand(2, 3, 64, 64))[0].numpy())
"""


def test_pruned_checkpoint_opens_in_a_bare_ultralytics_and_computes_the_same(tmp_path: Path) -> None:
    pruned = prune_uniformly(make_model(), 0.5, 8)
    save_model(pruned, tmp_path / "pruned.pt")
    environment = {
        **os.environ,
        "ULTRALYTICS_SAFE_LOAD": "1",
        "YOLO_OFFLINE": "1",
        "YOLO_CONFIG_DIR": str(tmp_path),
    }
    subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path / "pruned.pt"), str(tmp_path / "out.npy")],
        check=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), output(pruned).numpy(), rtol=1e-5, atol=1e-4)
