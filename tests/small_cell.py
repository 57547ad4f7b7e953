"""A cell of the miniature that trains in a second, on what the fixture `small` has."""

from vlmlaw.training.settings import CellSettings, TrainingSettings


def small_cell(plan: TrainingSettings) -> CellSettings:
    """Its settings, with this plan of training."""
    return CellSettings(
        size="3k",
        n_visual_tokens=4,
        compressor="block_linear",
        compressor_options={},
        seed=0,
        feature_layers=(2,),
        training=plan,
    )
