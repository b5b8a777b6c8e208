"""The command ``cl-bench measure``: what it prints and writes, and one line for what it refuses."""

from __future__ import annotations

import argparse
import csv
import json
import re

import pytest
import torch
from helpers import ROOT, tiny_profile, trained

from cl_bench.commands import measure
from cl_bench.encoders import build_encoder

VIT = """
import timm

def build():
    return timm.models.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=0, dynamic_img_size=True
    )

def nothing():
    return 3

def broken():
    return 1 / 0
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    profile = tiny_profile(tmp_path / "tiny.toml")
    (tmp_path / "vit.py").write_text(VIT)

    def call(*words):
        parser = argparse.ArgumentParser()
        measure.add_arguments(parser)
        status = measure.run(parser.parse_args([*words, "--profile", str(profile), "--store", "store"]))
        told = capsys.readouterr()
        return status, told.out, told.err

    return call


def line(text, start):
    return next(row.split() for row in text.splitlines() if row.startswith(start))


def test_a_timm_network_and_one_of_a_file(command, tmp_path):
    status, out, _ = command("timm:test_resnet", "./vit.py", "--report", "report")
    assert status == 0
    with (tmp_path / "report/encoders.csv").open() as file:
        rows = {(row["encoder"], row["images"]): row for row in csv.DictReader(file)}
    assert {key[0] for key in rows} == {"timm:test_resnet", "./vit.py"} and len(rows) == 4
    net, vit = (rows[name, "single_object"] for name in ("timm:test_resnet", "./vit.py"))
    assert 0 < float(net["performance_instance"]) <= 100 and float(net["performance_dense"]) >= 0
    assert net["enlarged"] == "4" and net["grid"] == "3x3" and vit["dense"] == "24"
    assert vit["performance_dense"] == "" and float(vit["predictors.rankme@dense"]) >= 1
    assert "./vit.py: no detection: is not a sequence of layers of a known kind" in out
    assert line(out, "timm:test_resnet")[2] == "x4"
    told = json.loads((tmp_path / "report/encoders.json").read_text())
    assert told["profile"] == "tiny" and told["correlations"] == [] and len(told["encoders"]) == 2


def test_the_example_of_the_documentation_does_what_it_says(command, tmp_path):
    text = (ROOT / "docs/own-encoder.md").read_text()
    example = text.split("```python\n# my_encoder.py\n")[1].split("```")[0]
    (tmp_path / "my_encoder.py").write_text(example)
    _, name, *words = next(w[1:] for t in text.splitlines() if (w := t.split())[2:3] == ["./my_encoder.py:build"])
    assert words == ["--profile", "ci"]  # here a profile of a second
    status, out, _ = command(name)
    assert status == 0
    found = line(out, name)
    assert found[1:6] == ["64", "x1", "3", "x", "3"] and "-" not in found


def test_a_folder_of_checkpoints_has_a_tau_and_says_what_its_test_assumes(command, tmp_path):
    (tmp_path / "run").mkdir()
    for seed in range(3):
        torch.manual_seed(seed)
        torch.save({"model": build_encoder("small_cnn").state_dict()}, tmp_path / f"run/epoch{seed}.pt")
    (tmp_path / "run/last.pt").write_bytes((tmp_path / "run/epoch2.pt").read_bytes())
    words = "run", "--report", "report"
    status, out, err = command(*words)
    assert status == 0 and "[3/3] epoch2.pt" in err
    assert "last.pt is the same encoder as epoch2.pt, and counts once" in out
    assert "every order of the encoders would be equally likely" in " ".join(out.split())
    told = json.loads((tmp_path / "report/encoders.json").read_text())
    assert [(c["images"], c["performance"], c["n"]) for c in told["correlations"]] == [
        (images, task, 3) for images in ("single_object", "multi_object") for task in ("linear evaluation", "detection")
    ]
    assert told["assumes"] and {p["predictor"] for p in told["predictors"]} >= {"rankme@dense", "knn@instance"}
    before = trained(tmp_path / "store")
    again = command(*words)
    assert again == (0, out, "") and trained(tmp_path / "store") == before


def test_one_of_several_that_diverged_is_shown_and_left_out(command, tmp_path):
    (tmp_path / "run").mkdir()
    for seed in range(4):
        torch.manual_seed(seed)
        state = build_encoder("small_cnn").state_dict()
        if seed == 3:
            state["last.1.0.weight"][0] = float("nan")
        torch.save(state, tmp_path / f"run/{seed}.pt")
    status, out, _ = command("run/*.pt", "--only", "linear", "--only", "measure")
    assert status == 0
    assert "\nrun/3.pt: features are not finite\n" in out
    assert "left out where something is missing or not finite: run/3.pt" in out


def test_one_stage_alone(command):
    status, out, _ = command("small_cnn", "--only", "linear")
    assert status == 0 and line(out, "small_cnn")[-5] != "-" and line(out, "small_cnn")[-4:-2] == ["-", "-"]
    assert "L_a" not in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["timm:resnet81"], "no model 'resnet81' in timm .*; did you mean 'resnet"),
        (["torchvision:resnet81"], "no model 'resnet81' in torchvision .*; did you mean 'resnet"),
        (["./vot.py:build"], r"no file vot.py; did you mean 'vit.py'"),
        (["./vit.py:buld"], r"./vit.py has no function 'buld'; did you mean 'build'\?; it has broken, build, nothing"),
        (["./vit.py:nothing"], r"./vit.py:nothing must return a torch.nn.Module, got int"),
        (["./vit.py:broken"], r"./vit.py:broken, line 13: ZeroDivisionError: division by zero"),
        (["flat.py"], r"flat.py gives \(2, 5\), and has no layers known here to give one"),
        (["nan.py"], "nan.py: features are not finite"),
        (["lost.pt"], "no file lost.pt; did you mean 'last.pt'"),
        (["last.pt"], "last.pt: the file does not say of which architecture its weights are; name it: --encoder"),
        (["last.pt", "--encoder", "torchvision:resnet18"], "last.pt: does not fit: lacks conv1.weight"),
        (["last.pt", "--encoder", "timn:resnet18"], "no encoder 'timn:resnet18'; did you mean 'timm'"),
        (["pickle.pt", "--encoder", "timm:resnet18"], "pickle.pt: holds more than weights"),
        (["small_cnn@pretrained"], "no weights of small_cnn are published"),
        (["small_cnn", "--enlarge", "0"], "--enlarge takes auto or a whole number from 1 to 32, got '0'"),
        (["small_cnn", "--set", "linear.epoch=3"], "linear.epoch"),
        (["small_cnn", "--data-root", "nowhere"], "--data-root nowhere: no such folder"),
        (["small_cnn", "--device", "cuda:99"], "--device cuda:99"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_4(command, tmp_path, words, said):
    flat = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5))\n"
    (tmp_path / "flat.py").write_text(flat)
    nan = "    net = nn.Conv2d(3, 4, 4, 4)\n    net.bias.data[0] = float('nan')\n    return net\n"
    (tmp_path / "nan.py").write_text(f"from torch import nn\ndef build():\n{nan}")
    torch.save({"w": torch.zeros(2)}, tmp_path / "last.pt")
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "pickle.pt")
    status, out, err = command(*words)
    assert status == 4 and out == ""
    assert err.startswith("cl-bench measure: ") and err.count("\n") == 1
    assert re.search(said, err), err
    assert not (tmp_path / "store/runs").exists() or not any((tmp_path / "store/runs").iterdir())
