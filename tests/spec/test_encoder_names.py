"""Names that a person types for an encoder, folders and patterns too, and those that are refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from helpers import dense_row, tiny

from cl_bench.errors import EncoderError
from cl_bench.spec.encoder_names import Named, architecture, named
from cl_bench.store import Store


@pytest.mark.parametrize(
    ("text", "architecture", "weights"),
    [
        ("timm:resnet50", "timm:resnet50", ""),
        ("timm:resnet50.a1_in1k@pretrained", "timm:resnet50.a1_in1k", "pretrained"),
        ("torchvision:resnet18@runs/last.pt", "torchvision:resnet18", "runs/last.pt"),
        ("./mine.py", "./mine.py:build", ""),
        ("a/mine.py:make@b/x.safetensors", "a/mine.py:make", "b/x.safetensors"),
        ("small_cnn", "small_cnn", ""),
        ("x/last.pth", "", "x/last.pth"),
        ("me@home/last.pth", "", "me@home/last.pth"),
    ],
)
def test_a_name_has_an_architecture_and_weights(text, architecture, weights):
    assert named([text]) == [Named(text, architecture, weights)]


def test_an_architecture_is_that_of_files_that_stand_alone():
    found = named(["a.pt", "timm:vit_tiny"], "torchvision:resnet18")
    assert [one.architecture for one in found] == ["torchvision:resnet18", "timm:vit_tiny"]


def test_folders_stores_and_patterns_are_their_checkpoints_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run/b.pt", "run/a.safetensors", "run/log.txt", "nest/1/x.pt", "nest/2/x.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for key in ("k1", "k2"):
        for name in ("encoder.safetensors", "checkpoint.pt"):
            (tmp_path / "store/runs" / key).mkdir(parents=True, exist_ok=True)
            (tmp_path / "store/runs" / key / name).touch()
    labels = {text: [one.label for one in named([text], "timm:x")] for text in ("run", "nest", "nest/*/x.pt", "store")}
    assert labels["run"] == ["a.safetensors", "b.pt"]
    assert labels["nest"] == ["1/x.pt", "2/x.pt"]
    assert labels["nest/*/x.pt"] == ["nest/1/x.pt", "nest/2/x.pt"]
    assert labels["store"] == [f"runs/{key}/encoder.safetensors" for key in ("k1", "k2")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/b.pt").touch()
    assert [one.label for one in named(["run", "other"])] == ["a.safetensors", "run/b.pt", "other/b.pt"]
    assert named(["run"], "timm:x")[1] == Named("b.pt", "timm:x", "run/b.pt")
    assert named([f"{tmp_path}/run/*.pt"])[0].weights == f"{tmp_path}/run/b.pt"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("small_cn", "no encoder 'small_cn'; did you mean 'small_cnn'"),
        ("tim:resnet18", "no encoder 'tim:resnet18'; did you mean 'timm'"),
        ("timm:", "no encoder 'timm:'"),
        ("what", "no encoder 'what'; encoders: timm:NAME"),
        ("*.pt", "no file matches"),
        ("empty", "folder empty holds no file of weights"),
    ],
)
def test_what_is_no_encoder_is_refused(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match=said):
        named([text])


def test_encoders_of_a_store_are_called_as_its_suites_call_them(tmp_path):
    profile, store = tiny(tmp_path), Store(tmp_path / "store")
    for spec in (profile.sweep(dense_row())[0], profile.random_init()[1]):
        run = store.run(spec.pretrain.key)
        run.write("spec", spec.pretrain.model_dump(mode="json"))
        run.write_bytes("encoder.safetensors", b"")
    case = "single_object-overlapping-dense_index-info_nce-t0.2-s0"
    assert {one.label for one in named([str(store.root)])} == {case, "random_init-s1"}


def test_an_architecture_of_a_file_is_its_name_its_source_and_its_place(tmp_path):
    (tmp_path / "mine.py").write_text("x = 1")
    found = architecture("./mine.py:make", tmp_path)
    source = hashlib.sha256(b"x = 1").hexdigest()
    assert found == {"name": "mine.py:make", "source": source, "file": str(tmp_path / "mine.py")}
    with pytest.raises(EncoderError, match=r"no file .*mime.py; did you mean 'mine.py'"):
        architecture("mime.py", tmp_path)
    with pytest.raises(EncoderError, match="without weights"):
        architecture("timm:resnet18@x.pt", tmp_path)


def test_an_architecture_has_no_weights_of_its_own():
    with pytest.raises(EncoderError, match="--encoder takes an architecture"):
        named(["a.pt"], "timm:resnet18@b.pt")


def test_names_need_no_torch():
    code = "import sys, cl_bench.spec.encoder_names, cl_bench.commands.measure; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
