"""A language model's shape from a config.json."""

from transformers import Gemma3TextConfig

from vlmlaw.hub.shapes import text_shape
from vlmlaw.vlm.decoder_flops import attention_widths


def test_what_a_nested_config_leaves_out_has_its_classs_default():
    """As Gemma 3's releases have it: no number of heads, no width of a head, no vocabulary."""
    nested = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    shape, whole = text_shape({"model_type": "gemma3", "text_config": nested}), Gemma3TextConfig(**nested)
    assert attention_widths(shape) == (2560, whole.num_attention_heads * whole.head_dim, 4 * whole.head_dim)
    assert shape.vocab_size == whole.vocab_size


def test_an_unknown_architecture_has_its_values_alone():
    shape = text_shape({"model_type": "own", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2})
    assert (shape.hidden_size, shape.num_key_value_heads) == (8, 2)
    assert not hasattr(shape, "vocab_size")
