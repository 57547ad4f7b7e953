"""Folders in the layouts of lmms-eval, VLMEvalKit and Every Eval Ever become the table that `law fit` reads."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from vlmlaw.cli.main import main
from vlmlaw.errors import UserError
from vlmlaw.evaluation.exchange.gather import gather
from vlmlaw.evaluation.exchange.score import Choices
from vlmlaw.laws import read_measurements

QWEN = "Qwen/Qwen2-VL-7B-Instruct"


def lmms_results(folder, model, scores, *, pixels, n_params=None, asked=None, date="20250224_101500", higher=None):
    """A results file as lmms_eval/loggers/evaluation_tracker.py writes it, in the folder that it makes."""
    where = folder / model.replace("/", "__")
    where.mkdir(parents=True, exist_ok=True)
    config = {"model": "qwen2_vl", "model_args": f"pretrained={model},max_pixels={pixels}", "batch_size": "1"}
    data = {
        "results": {task: {"alias": task, **found} for task, found in scores.items()},
        "group_subtasks": {task: [] for task in scores},
        "configs": {task: {"task": task} for task in scores},
        "higher_is_better": higher or {},
        "n-samples": {task: {"original": 500, "effective": asked or 500} for task in scores},
        "config": config | ({"model_num_parameters": n_params} if n_params else {}),
        "model_source": "qwen2_vl",
        "model_name": model,
        "model_name_sanitized": model.replace("/", "__"),
    }
    path = where / f"{date}_results.json"
    path.write_text(json.dumps(data, indent=2))
    return path


def models_file(tmp_path, *lines, head="model,params_b,visual_tokens,where"):
    path = tmp_path / "models.csv"
    path.write_text("\n".join([head, *lines, ""]))
    return path


def test_lmms_eval_settings_of_one_model_are_told_apart_and_n_comes_from_its_config(tmp_path):
    for pixels, score in ((200704, 0.70), (802816, 0.78)):
        scores = {
            "textvqa_val": {"exact_match,none": score, "exact_match_stderr,none": 0.02, "submission,none": None},
            "mme": {"mme_perception_score,none": 1600.0, "mme_cognition_score,none": 600.0},
        }
        lmms_results(tmp_path / "runs" / str(pixels), QWEN, scores, pixels=pixels, n_params=8_291_375_616)
    models = models_file(tmp_path, f"{QWEN},,256,max_pixels=200704", f"{QWEN},,1024,max_pixels=802816")
    frame, notes = gather(tmp_path / "runs", models)
    text = frame[frame["suite"] == "textvqa_val"]
    assert text["visual_tokens"].tolist() == [256, 1024] and text["params_b"].tolist() == [8.29138, 8.29138]
    assert text["error"].tolist() == pytest.approx([0.30, 0.22]) and text["error_se"].tolist() == [0.02, 0.02]
    assert text["n_questions"].tolist() == [500, 500]
    assert frame[frame["suite"] == "mme"]["error"].tolist() == pytest.approx([1 - 2200 / 2800] * 2)
    assert "judged by 2 metrics" in notes[0] and "exact_match: textvqa_val" in notes[0]


def test_the_standard_error_comes_from_the_samples_where_results_have_none(tmp_path):
    right = [1.0] * 60 + [0.0] * 40
    scores = {"gqa_x": {"exact_match,none": 0.6, "exact_match_stderr,none": "N/A"}}
    path = lmms_results(tmp_path / "runs", QWEN, scores, pixels=1)
    lines = [
        {"doc_id": i, "target": "yes", "filtered_resps": ["no"], "doc_hash": "a", "exact_match": hit, "input": "?"}
        for i, hit in enumerate(right)
    ]
    samples = path.with_name("20250224_101500_samples_gqa_x.jsonl")
    samples.write_text("\n".join(map(json.dumps, lines)))
    models = models_file(tmp_path, f"{QWEN},8.3,256,")
    with_results, _ = gather(tmp_path / "runs", models)
    with pytest.raises(UserError, match="has 2 scores on gqa_x"):  # samples of a run without results are a run
        samples.with_name("20250101_000000_samples_gqa_x.jsonl").write_text(samples.read_text())
        gather(tmp_path / "runs", models)
    samples.with_name("20250101_000000_samples_gqa_x.jsonl").unlink()
    path.unlink()
    alone, _ = gather(tmp_path / "runs", models)  # the folder is named Qwen__Qwen2-VL-7B-Instruct
    expected = np.std(right, ddof=1) / 10
    for frame, asked in ((with_results, 500), (alone, 100)):
        assert frame.loc[0, ["error", "error_se", "n_questions"]].tolist() == pytest.approx([0.4, expected, asked])


def test_an_unknown_model_is_named_with_the_line_to_add(tmp_path):
    lmms_results(tmp_path / "runs", QWEN, {"x": {"acc,none": 0.5}}, pixels=1, n_params=8_291_375_616)
    with pytest.raises(UserError, match=r"no --models FILE says N and V of Qwen/Qwen2-VL-7B-Instruct") as error:
        gather(tmp_path / "runs", None)
    assert f"  {QWEN},8.29138,TOKENS" in str(error.value)
    with pytest.raises(UserError, match=r"models.csv has no line for Qwen/Qwen2-VL-7B-Instruct"):
        gather(tmp_path / "runs", models_file(tmp_path, "other,1,2,"))
    lmms_results(tmp_path / "runs", QWEN, {"x": {"acc,none": 0.5}}, pixels=1)
    with pytest.raises(UserError, match=r"line 2: params_b of .* is blank, and .* does not say it"):
        gather(tmp_path / "runs", models_file(tmp_path, f"{QWEN},,256,"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{QWEN},seven,256,", "line 2: params_b is 'seven'; expected billions"),
        (f"{QWEN},7,,", "line 2: visual_tokens is ''; expected a number of tokens"),
    ],
)
def test_a_wrong_number_in_the_models_file_is_said(tmp_path, line, message):
    lmms_results(tmp_path / "runs", QWEN, {"x": {"acc,none": 0.5}}, pixels=1)
    with pytest.raises(UserError, match=message):
        gather(tmp_path / "runs", models_file(tmp_path, line))


def test_metrics_are_not_guessed(tmp_path):
    runs, models = tmp_path / "runs", models_file(tmp_path, f"{QWEN},7,256,", "B/b,13,256,")
    lmms_results(runs, QWEN, {"docvqa_x": {"anls,none": 0.8, "exact_match,none": 0.6}}, pixels=1)
    with pytest.raises(UserError, match=r"docvqa_x: several metrics \(anls 0.8, exact_match 0.6\); .*docvqa_x=anls"):
        gather(runs, models)
    frame, _ = gather(runs, models, Choices({"docvqa_x": "anls"}))
    assert frame["error"].tolist() == pytest.approx([0.2])
    lmms_results(runs, "B/b", {"docvqa_x": {"exact_match,none": 0.7}}, pixels=1)
    with pytest.raises(UserError, match=r"there is no metric 'anls'; there are exact_match"):
        gather(runs, models, Choices({"docvqa_x": "anls"}))
    lmms_results(runs, QWEN, {"docvqa_x": {"anls,none": 0.8}}, pixels=1)
    with pytest.raises(UserError, match=r"judged by exact_match in .* and by anls in .*; a suite has one metric"):
        gather(runs, models)


def test_scales_and_directions_are_not_guessed(tmp_path):
    runs, models = tmp_path / "runs", models_file(tmp_path, f"{QWEN},7,256,")
    lmms_results(runs, QWEN, {"ocr": {"points,none": 640.0, "points_stderr,none": 10}}, pixels=1)
    with pytest.raises(UserError, match=r"points is 640; expected a number between 0 and 1. .*--maximum 'ocr=POINTS'"):
        gather(runs, models)
    frame, _ = gather(runs, models, Choices(maxima={"ocr": 1000.0}))
    assert frame.loc[0, ["error", "error_se"]].tolist() == pytest.approx([0.36, 0.01])
    lmms_results(runs, QWEN, {"asr": {"wer,none": 0.2}}, pixels=1, higher={"asr": {"wer": False}})
    frame, _ = gather(runs, models)
    assert frame["error"].tolist() == [0.2] and frame["metric"].tolist() == ["wer, lower is better"]


def test_limited_and_repeated_runs_are_refused(tmp_path):
    runs, models = tmp_path / "runs", models_file(tmp_path, f"{QWEN},7,256,")
    lmms_results(runs, QWEN, {"x": {"acc,none": 0.5}}, pixels=1, asked=50)
    with pytest.raises(UserError, match=r"x: 50 of 500 questions were asked; .*--partial"):
        gather(runs, models)
    assert gather(runs, models, Choices(partial=True))[0]["n_questions"].tolist() == [50]
    lmms_results(runs, QWEN, {"x": {"acc,none": 0.5}}, pixels=1)
    lmms_results(runs, QWEN, {"x": {"acc,none": 0.6}}, pixels=1, date="20250301_101500")
    with pytest.raises(
        UserError, match=r"has 2 scores on x: .*20250224.*20250301.*Keep one, take the last by --latest"
    ):
        gather(runs, models)
    frame, notes = gather(runs, models, latest=True)
    assert frame["error"].tolist() == [0.4] and "1 earlier runs left out" in notes
    both = models_file(tmp_path, f"{QWEN},7,256,", f"{QWEN},7,64,")
    with pytest.raises(
        UserError, match=r"lines 2, 3 fit Qwen/Qwen2-VL-7B-Instruct in .* alike; tell them apart by `where`"
    ):
        gather(runs, both)


def write_quoted(path, frame):
    """As VLMEvalKit's dump writes a CSV, with a link in the model's folder as its run.py makes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    link = path.parent.parent / path.name
    link.symlink_to(path)


def test_vlmevalkits_kinds_of_tables(tmp_path):
    run = tmp_path / "outputs" / "LLaVA_v1_5" / "T20250101_Gabcdef12"
    name = "LLaVA_v1_5"
    write_quoted(
        run / f"{name}_MMBench_DEV_EN_acc.csv", pd.DataFrame({"split": ["dev"], "Overall": [0.73], "AR": [0.8]})
    )
    write_quoted(run / f"{name}_TextVQA_VAL_acc.csv", pd.DataFrame({"Overall": [58.2]}))
    write_quoted(
        run / f"{name}_MME_score.csv", pd.DataFrame({"perception": [1510.7], "reasoning": [300.0], "OCR": [1]})
    )
    pope = {"split": ["Overall", "random"], "Overall": [85.9, 88.0], "acc": [86.5, 88.1], "precision": [90.0, 91.0]}
    write_quoted(run / f"{name}_POPE_score.csv", pd.DataFrame(pope))
    vet = pd.DataFrame({"Category": ["rec", "Overall"], "tot": [100, 218], "acc": [30.0, 31.1]})
    write_quoted(run / f"{name}_MMVet_gpt-4-turbo_score.csv", vet)
    write_quoted(run / f"{name}_MMMU_acc.csv", pd.DataFrame({"split": ["dev", "validation"], "Overall": [0.3, 0.36]}))
    (run / f"{name}_OCRBench_score.json").write_text(json.dumps({"Text Recognition": 200, "Final Score": 318}))
    (run / "status.json").write_text("{}")
    frame, notes = gather(tmp_path / "outputs", models_file(tmp_path, f"{name},7,576,"))
    errors = dict(zip(frame["suite"], frame["error"], strict=True))
    assert errors == pytest.approx(
        {
            **{"MMBench_DEV_EN": 0.27, "TextVQA_VAL": 0.418, "MME": 1 - 1810.7 / 2800, "POPE": 0.141},
            **{"MMVet": 0.689, "MMMU dev": 0.7, "MMMU validation": 0.64, "OCRBench": 0.682},
        }
    )
    metrics = dict(zip(frame["suite"], frame["metric"], strict=True))
    assert metrics["POPE"] == "F1" and metrics["MMVet"] == "acc, judged by gpt-4-turbo"
    assert any("status.json" in note for note in notes)


def test_vlmevalkits_files_without_folders_are_known_by_the_models_file(tmp_path):
    (tmp_path / "flat").mkdir()
    for name, score in (("Qwen2-VL_2B", 0.4), ("Qwen2-VL", 0.6)):
        pd.DataFrame({"split": ["none"], "Overall": [score]}).to_csv(tmp_path / "flat" / f"{name}_MMStar_acc.csv")
    models = models_file(tmp_path, "Qwen2-VL,7,256,", "Qwen2-VL_2B,2,256,")
    frame, _ = gather(tmp_path / "flat", models)
    assert frame[["params_b", "suite", "error"]].to_numpy().tolist() == [[2, "MMStar", 0.6], [7, "MMStar", 0.4]]
    with pytest.raises(UserError, match="neither a folder above nor a line of the models file"):
        gather(tmp_path / "flat", models_file(tmp_path, "other,7,256,"))


def test_vlmevalkits_hallusionbench_needs_a_choice_and_xlsx_is_read(tmp_path):
    run = tmp_path / "outputs" / "M" / "T1_G1"
    run.mkdir(parents=True)
    table = pd.DataFrame({"split": ["Overall", "VD"], "aAcc": [46.9, 50], "fAcc": [24.9, 20], "qAcc": [24.6, 20]})
    table.to_excel(run / "M_HallusionBench_score.xlsx", index=False)
    models = models_file(tmp_path, "M,7,576,")
    with pytest.raises(UserError, match=r"HallusionBench: several metrics .aAcc 46.9, fAcc 24.9, qAcc 24.6"):
        gather(tmp_path / "outputs", models)
    frame, _ = gather(tmp_path / "outputs", models, Choices({"HallusionBench": "aAcc"}))
    assert frame["error"].tolist() == pytest.approx([0.531])
    write_quoted(run / "M_AI2D_acc.csv", pd.DataFrame({"split": ["none"], "Overall": [55.0]}))
    with pytest.raises(UserError, match=r"AI2D: Overall is 55; expected a number between 0 and 1"):
        gather(tmp_path / "outputs", models, Choices({"HallusionBench": "aAcc"}))


def record(model="google/gemma-3-4b-it", score=65.11, bounds=(0.0, 100.0), **metric):
    """A record as those in evaleval/every_eval_ever."""
    config = {"lower_is_better": False, "score_type": "continuous", "min_score": bounds[0], "max_score": bounds[1]}
    return {
        "schema_version": "0.2.1",
        "evaluation_id": f"mmmu/{model}/1770682039.8",
        "retrieved_timestamp": "1770682039.8",
        "source_metadata": {
            "source_type": "documentation",
            "source_organization_name": "X",
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "unknown", "version": "unknown"},
        "model_info": {"name": model, "id": model},
        "evaluation_results": [
            {
                "evaluation_name": "MMMU",
                "source_data": {"dataset_name": "mmmu", "source_type": "other"},
                "metric_config": config | metric,
                "score_details": {
                    "score": score,
                    "uncertainty": {"standard_error": {"value": 2.0}, "num_samples": 900},
                },
            }
        ],
    }


def test_every_eval_evers_records_are_scaled_by_their_bounds(tmp_path):
    runs, models = tmp_path / "data", models_file(tmp_path, "google/gemma-3-4b-it,4.3,256,")
    runs.mkdir()
    (runs / "a.json").write_text(json.dumps(record()))
    frame, _ = gather(runs, models)
    found = frame.loc[0, ["error", "error_se", "n_questions", "visual_tokens"]].tolist()
    assert found == pytest.approx([1 - 0.6511, 0.02, 900, 256])
    (runs / "a.json").write_text(json.dumps(record(score=0.2, bounds=(0, 1), lower_is_better=True)))
    assert gather(runs, models)[0]["error"].tolist() == [0.2]
    (runs / "a.json").write_text(json.dumps(record(bounds=(0, None))))
    with pytest.raises(UserError, match=r"evaluation_results\[0\]: MMMU has the bounds 0 and None; .*--maximum"):
        gather(runs, models)
    (runs / "a.json").write_text(json.dumps(record(score=165.0)))
    with pytest.raises(UserError, match=r"the score of MMMU is 165.0; expected a number from 0 to 100"):
        gather(runs, models)


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"holds no scores of lmms-eval \(..._results.json"):
        gather(tmp_path, None)
    with pytest.raises(UserError, match=r"is no folder"):
        gather(tmp_path / "no", None)


def test_the_table_goes_into_law_fit(tmp_path, capsys):
    rng, lines = np.random.default_rng(0), []
    for n in (1, 3, 7, 14):
        for pixels in (1, 4, 16, 64):
            model, score = f"org/m-{n}b", 0.4 + 0.06 * np.log(n) + 0.03 * np.log(pixels) + rng.normal(0, 0.002)
            lmms_results(tmp_path / "runs" / f"p{pixels}", model, {"x": {"acc,none": score}}, pixels=pixels)
            lines.append(f"{model},{n},{pixels * 16},/p{pixels}/")
    out = tmp_path / "table.csv"
    assert (
        main(
            ["law", "import", str(tmp_path / "runs"), "--models", str(models_file(tmp_path, *lines)), "--out", str(out)]
        )
        == 0
    )
    assert "16 rows of 4 models" in capsys.readouterr().out
    assert len(read_measurements(out)) == 16
    assert main(["law", "fit", str(out), "--law", "logit", "--bootstrap-draws", "0"]) == 0
    assert "rho = " in capsys.readouterr().out
    assert main(["law", "import", str(tmp_path / "runs")]) == 2
    assert "org/m-14b,BILLIONS,TOKENS" in capsys.readouterr().err
