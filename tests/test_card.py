from vlmlaw.card import write_card


def test_a_card_tells_a_cells_numbers(tmp_path):
    plan = {
        "batch_size": 4,
        "learning_rate": 1e-3,
        "new_learning_rate": 2e-3,
        "warmup_share": 0.03,
        "dtype": "bfloat16",
    }
    training = {
        "settings": {"compressor": "quecc", "seed": 3, "training": plan | {"dtype": "bfloat16"}},
        "versions": {"torch": "2.13"},
        "steps": 5187,
        "last_loss": 1.25,
        "wall_seconds": 7200.0,
        "origins": {
            "language_model": {"source": "Qwen/Qwen2.5-0.5B-Instruct", "commit": "0a1b"},
            "vision_tower": {"source": "folder/clip", "commit": ""},
        },
    }
    evaluation = {
        "cell": {"n_visual_tokens": 16},
        "parameters": {
            "llm": 494_032_768,
            "llm_non_embedding": 357_898_112,
            "vision": 7,
            "compressor": 5,
            "projector": 6,
        },
        "scores": {"reading": {"all": {"error": 0.1234, "error_se": 0.0101, "n_questions": 300}}},
    }
    write_card("0.5b_v16_quecc_s3", training, evaluation, tmp_path / "model", tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "# 0.5b_v16_quecc_s3" in text and "as 16 visual tokens (quecc)" in text
    assert "| reading | all | 0.123 | 0.010 | 300 |" in text
    assert "494,032,768 parameters" in text and "5,187 steps of 4 records" in text and "11 between" in text
    assert "- Language model: Qwen/Qwen2.5-0.5B-Instruct at commit 0a1b.\n- Vision tower: folder/clip.\n" in text
    assert 'from_pretrained("model")' in text
