"""An experiment without a vision encoder: what stands in the tower's place gives the pixels of each patch."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vlmlaw.compressors import build_compressor
from vlmlaw.errors import UserError
from vlmlaw.experiment.experiment import Experiment, read_experiment
from vlmlaw.experiment.yaml_file import read_yaml
from vlmlaw.hub.pins import open_model
from vlmlaw.runtime.fingerprint import code_version
from vlmlaw.training.patches import write_patch_tower
from vlmlaw.training.settings import PatchSettings
from vlmlaw.vlm.towers import features
from vlmlaw.vlm.towers.load import load_tower
from vlmlaw.workflow.stages import stages_of

ROOT = Path(__file__).parents[2]
SETTINGS = PatchSettings(image_px=24, patch_px=8)


def test_written_and_loaded_it_gives_each_patch_as_torch_unfolds_it(tmp_path):
    write_patch_tower(tmp_path / "encoder", settings=SETTINGS)
    tower = load_tower(open_model(tmp_path / "encoder"))
    pixels = torch.randn(2, 3, 24, 24)
    patches = features.patch_features(tower, pixels, layers=[0])
    assert torch.equal(patches, F.unfold(pixels, kernel_size=8, stride=8).transpose(1, 2))
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert json.loads((tmp_path / "encoder" / "training.json").read_text())["steps"] == 0


def test_learned_queries_learn_from_pixels_alone(tmp_path):
    """To say which of the four quarters of an image is white: at once by where a query looks, never by a mean."""
    torch.manual_seed(0)
    write_patch_tower(tmp_path / "encoder", settings=PatchSettings(image_px=8, patch_px=2))
    tower = load_tower(open_model(tmp_path / "encoder"))
    quarter = torch.arange(4).repeat(8)
    pixels = 0.1 * torch.randn(32, 3, 8, 8)
    for image, at in zip(pixels, quarter, strict=True):
        row, column = divmod(int(at), 2)
        image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    patches = features.patch_features(tower, pixels, layers=[0])
    queries = build_compressor("resampler", 4, 12, 1, depth=1, n_heads=2, head_width=8, places=True)
    head = torch.nn.Linear(12, 4)
    optimizer = torch.optim.Adam([*queries.parameters(), *head.parameters()], lr=0.01)
    for _ in range(150):
        loss = F.cross_entropy(head(queries(patches)[:, 0]), quarter)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert patches.mean(dim=1).var(dim=0).max() < 0.02  # the mean over patches does not tell the quarters apart


def test_the_workflow_has_patches_in_the_encoders_place():
    free, default = (read_experiment(ROOT / name) for name in ("workflow/experiments/encoder_free.yaml", "params.yaml"))
    own, trained = (stages_of(experiment)["train_encoder"] for experiment in (free, default))
    assert "encoder patches" in own.command and own.folder == trained.folder
    assert code_version(*own.code) != code_version(*trained.code)
    assert free.encoder_settings == PatchSettings(image_px=96, patch_px=8)
    assert free.cached_layers == (0,) and free.tower.hidden_size == 192


def test_what_reads_a_towers_attention_is_refused_before_anything_runs():
    plan = read_yaml(ROOT / "workflow/experiments/encoder_free.yaml")
    for name in ("visionzip", "tome", "internvl_fastervlm"):
        with pytest.raises(UserError, match=rf"grid: compressor {name}: reads the attention of a vision tower"):
            _ = Experiment.from_mapping(plan | {"grid": {"visual_tokens": [4], "compressors": [name]}})
    assert Experiment.from_mapping(plan | {"grid": {"visual_tokens": [4], "compressors": ["divprune"]}}).cells
