"""A transformers model around a compressor keeps its initial weights and, on loading, its trained ones."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel, initialization

from .cases import NAMES, fill_with_noise, make, some_allowed


class WrapperConfig(PretrainedConfig):
    model_type = "compressor_wrapper"

    def __init__(self, name: str = "average", **kwargs):
        super().__init__(**kwargs)
        self.name = name


class Wrapper(PreTrainedModel):
    config_class = WrapperConfig

    def __init__(self, config: WrapperConfig):
        super().__init__(config)
        self.compressor = make(config.name, some_allowed(config.name)[1])
        self.post_init()

    def initialize_weights(self) -> None:
        """As the package's docstring asks: the library's own initialisation, then the compressor's.

        Not in `_init_weights`: of custom code, transformers passes no module there that has no weights of its own.
        The guard leaves loaded weights alone.
        """
        super().initialize_weights()
        with torch.no_grad(), initialization.guard_torch_init_functions():
            self.compressor.reset_parameters()


LEARNED = [name for name in NAMES if make(name, some_allowed(name)[0]).n_params()]


@pytest.mark.parametrize("name", LEARNED)
def test_round_trip_through_a_pretrained_model(name, tmp_path):
    model = Wrapper(WrapperConfig(name))
    fill_with_noise(model.compressor)
    model.save_pretrained(tmp_path)
    loaded = Wrapper.from_pretrained(tmp_path)
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], tensor, rtol=0, atol=0)


def test_zero_initialised_weights_survive_the_librarys_initialisation():
    assert not Wrapper(WrapperConfig("block_linear")).compressor.linear.weight.any()
    assert Wrapper(WrapperConfig("mlp_shuffle")).compressor.hidden.weight.any()


@pytest.mark.parametrize("name", LEARNED)
def test_weights_missing_from_a_checkpoint_are_initialised_and_the_others_loaded(name, tmp_path):
    model = Wrapper(WrapperConfig(name))
    fill_with_noise(model.compressor)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    missing = max(weights, key=lambda key: (weights[key].ndim > 1, key))
    del weights[missing]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = Wrapper.from_pretrained(tmp_path).state_dict()
    for key, tensor in weights.items():
        torch.testing.assert_close(loaded[key], tensor, rtol=0, atol=0)
    spread = loaded[missing].std().item()
    expected = make(name, some_allowed(name)[1]).state_dict()[missing.removeprefix("compressor.")].std().item()
    assert spread == pytest.approx(expected, rel=0.5, abs=1e-9)
