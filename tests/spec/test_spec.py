"""Profiles and settings: what is accepted, and what is refused in which words; the cases of a sweep."""

from __future__ import annotations

import json

import pytest
from specs import DENSE, smoke

from cl_bench.errors import SpecError, nearest
from cl_bench.spec import COCOSpec, STL10Spec, VOCSpec
from cl_bench.spec.profile import Row
from cl_bench.spec.profile_files import PROFILES, load_profile


def complaint(*settings, profile="smoke"):
    with pytest.raises(SpecError) as error:
        load_profile(profile, settings)
    assert "\n" not in str(error.value) and "{'" not in str(error.value)  # one line, and no table spelt out in it
    return str(error.value)


def toml(tree, path=()):
    """Write a table as TOML: its values, then its tables."""
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{k} = {json.dumps(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    return "\n".join([*lines, *(toml(v, (*path, k)) for k, v in tree.items() if isinstance(v, dict))])


@pytest.fixture
def written(tmp_path):
    """Write a profile; returns the name to load it by."""

    def write(tree, name="mine"):
        file = tmp_path / f"{name}.toml"
        file.write_text(toml(tree), encoding="utf-8")
        return str(file)

    return write


# Profiles


@pytest.mark.parametrize("name", sorted(p.stem for p in PROFILES.glob("*.toml")))
def test_the_profiles_that_ship_are_valid_and_their_cases_have_one_name_each(name):
    profile = load_profile(name)
    assert profile.name == name and profile.about
    for data in ("single_object", "multi_object"):
        cases = [spec.case for spec in profile.sweep(Row(DENSE.method, data, "disjoint"))]
        assert len(cases) == len(set(cases)) == len(profile.grid_of(data, "disjoint").objectives()) * profile.seeds
    for sources in (profile.single_object, profile.multi_object):
        assert sources.data.split.startswith("train") and sources.heldout.split in ("test", "val2017")
    for downstream in (profile.linear, profile.detection):
        assert downstream.train.split.startswith("train") and downstream.test.split.startswith("test")
        assert downstream.sentence


def test_a_profile_is_a_file_too(raw, written):
    mine = load_profile(written(raw))
    assert mine.name == "mine"
    assert mine.model_copy(update={"name": "smoke", "known": smoke().known}) == smoke()


@pytest.mark.parametrize("text", ["lr = = 3", "[grid\n", "\ufeffx", "a = 1\na = 2"])
def test_a_file_that_is_not_toml_is_refused(tmp_path, text):
    file = tmp_path / "broken.toml"
    file.write_text(text, encoding="utf-8")
    assert "broken.toml: not valid TOML" in complaint(profile=str(file))


def test_a_file_of_other_bytes_is_refused(tmp_path):
    file = tmp_path / "broken.toml"
    file.write_bytes(b"about = '\xff'")
    assert "broken.toml: not valid TOML" in complaint(profile=str(file))


@pytest.mark.parametrize("name", ["smok", "smoke2", "SMOKE", "smoke.tml"])
def test_an_unknown_profile_names_the_nearest(name):
    message = complaint(profile=name)
    assert repr(name) in message
    assert "did you mean 'smoke'" in message or name == "SMOKE"
    assert "profiles: " in message and "smoke" in message


def test_a_profile_file_that_is_not_there_is_named(tmp_path):
    assert "nowhere.toml" in complaint(profile=str(tmp_path / "nowhere.toml"))
    (tmp_path / "folder.toml").mkdir()
    assert "folder.toml" in complaint(profile=str(tmp_path / "folder.toml"))


# Settings


@pytest.mark.parametrize(
    ("setting", "read", "value"),
    [
        ("seeds=37", lambda p: p.seeds, 37),
        ("optimiser.lr=0.517", lambda p: p.optimiser.lr, 0.517),
        (" optimiser.lr =5.17e-1", lambda p: p.optimiser.lr, 0.517),
        ("optimiser.schedule=steps", lambda p: p.optimiser.schedule, "steps"),
        ('optimiser.schedule="steps"', lambda p: p.optimiser.schedule, "steps"),
        ("optimiser.milestones=[0.5, 0.75]", lambda p: p.optimiser.milestones, (0.5, 0.75)),
        ("grid.temperatures=[1]", lambda p: p.grid.temperatures, (1.0,)),
        ("grid.weightings=[[1,2],[0.5,0]]", lambda p: p.grid.weightings, ((1.0, 2.0), (0.5, 0.0))),
        ("grid.positive_in_denominator=false", lambda p: p.grid.positive_in_denominator, False),
        ("single_object.augment.scale=[0.1,0.2]", lambda p: p.single_object.augment.scale, (0.1, 0.2)),
        (
            "linear.train={kind='single_object',split='train',images=9,size=16}",
            lambda p: p.linear.train.images,
            9,
        ),
        ("about=a = b", lambda p: p.about, "a = b"),
    ],
)
def test_a_setting_reaches_its_place_and_no_other(setting, read, value):
    changed = smoke(setting)
    assert read(changed) == value and type(read(changed)) is type(value)
    assert read(smoke()) != value
    before, after = (json.dumps(p.model_dump(mode="json"), indent=0).splitlines() for p in (smoke(), changed))
    assert sum(line not in before for line in after) <= 5


def test_the_last_setting_wins_and_settings_reach_tables_that_the_file_leaves_out(raw, written):
    assert smoke("optimiser.lr=0.5", "optimiser.lr=0.25").optimiser.lr == 0.25
    del raw["claims"]
    assert load_profile(written(raw), ["claims.alpha=0.01"]).claims.alpha == 0.01


@pytest.mark.parametrize(
    ("setting", "key", "near"),
    [
        ("optimiser.bach=3", "optimiser.bach", "batch"),
        ("optimzer.lr=3", "optimzer", "optimiser"),
        ("single_object.augment.zzz=3", "single_object.augment.zzz", None),
        ("single_object.augment.flipp=1", "single_object.augment.flipp", "flip"),
        ("grid.temperature=[1]", "grid.temperature", "temperatures"),
        ("linear.train.image=4", "linear.train.image", "images"),
        ("zzz=1", "zzz", None),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(setting, key, near):
    message = complaint(setting)
    assert f"unknown key {key!r}" in message
    assert (f"did you mean {near!r}?" in message) if near else ("did you mean" not in message)


def test_a_mistake_that_both_kinds_of_data_inherit_is_one(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('base = "paper"\n[optimiser]\nepoch = 1\n')
    assert complaint(profile=str(file)).endswith("unknown key 'optimiser.epoch'; did you mean 'epochs'?")
    assert "(and 1 more)" in complaint("optimiser.epochs=many", "optimiser.lr=-1", profile="paper")


def test_an_unknown_key_in_a_list_of_tables_is_named_with_the_nearest():
    table = "method='m',data='single_object',views='disjoint',claim='tau_negative',level='dense',reason='long enough'"
    assert smoke(f"known=[{{{table}}}]").known[0].method == "m"
    message = complaint(f"known=[{{{table},levl='x'}}]")
    assert "known.0.levl" in message and "did you mean 'level'?" in message


def test_a_misspelt_key_that_must_be_there_is_named_with_the_nearest(raw, written):
    raw["optimiser"]["epoch"] = raw["optimiser"].pop("epochs")
    message = complaint(profile=written(raw))
    assert "unknown key 'optimiser.epoch'" in message and "did you mean 'epochs'?" in message


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("optimiser.lr=-0.1", "optimiser.lr", "-0.1"),
        ("optimiser.lr=0", "optimiser.lr", "0"),
        ("optimiser.lr=inf", "optimiser.lr", "inf"),
        ("optimiser.lr=nan", "optimiser.lr", "nan"),
        ("optimiser.lr=fast", "optimiser.lr", "'fast'"),
        ("optimiser.lr=", "optimiser.lr", "''"),
        ("optimiser.batch=1", "optimiser.batch", "1"),
        ("optimiser.epochs=2.5", "optimiser.epochs", "2.5"),
        ("optimiser.schedule=cosin", "optimiser.schedule", "'cosin'"),
        ("optimiser.milestones=[0.5,1.5]", "optimiser.milestones.1", "1.5"),
        ("optimiser=3", "optimiser", "3"),
        ("encoder.name=resnet50", "encoder.name", "'resnet50'"),
        ("seeds=0", "seeds", "0"),
        ("grid.temperatures=[]", "grid.temperatures", "[]"),
        ("grid.temperatures=[0.1,0]", "grid.temperatures.1", "0"),
        ("grid.weightings=[[1]]", "grid.weightings.0.1", None),
        ("grid.weightings=[[1,-1]]", "grid.weightings.0.1", "-1"),
        ("single_object.data.size=8", "single_object.data.size", "8"),
        ("single_object.data.seed=-1", "single_object.data.seed", "-1"),
        ("single_object.augment.scale=[0.5,0.2]", "single_object.augment", "(0.5, 0.2)"),
        ("single_object.augment.scale=[0.5,1.2]", "single_object.augment", "(0.5, 1.2)"),
        ("single_object.augment.ratio=[2,1]", "single_object.augment", "(2.0, 1.0)"),
        ("single_object.augment.hue=0.6", "single_object.augment.hue", "0.6"),
        ("single_object.augment.flip=2", "single_object.augment.flip", "2"),
        ("multi_object.data.kind=two_objects", "multi_object.data.kind", "'two_objects'"),
        ("claims.alpha=0.5", "claims.alpha", "0.5"),
        ("measure_scope=all", "measure_scope", "'all'"),
        ("optimiser.chunk=7", "optimiser", "7"),
        ("single_object.augment.blur_sigma=[2,1]", "single_object.augment", "(2.0, 1.0)"),
        ("single_object.optimiser.lr=-0.1", "single_object.optimiser.lr", "-0.1"),
        ("single_object.data.name=stl", "single_object.data", "'stl'"),
        ("single_object.data={name='coco',split='train2017'}", "single_object", "coco train2017"),
        ("single_object.data=stl10", "single_object.data", "'stl10'"),
        ("linear.train=7", "linear.train", "7"),
        ("linear.protocol=augmented", "linear", "size"),
        ("linear.size=32", "linear", "32"),
        ("linear.mean=[0,0,0]", "linear", "None"),
        ("linear.train={name='coco',split='train2017'}", "linear", "coco and scenes"),
        ("linear.test.kind=multi_object", "linear", "multi_object scenes test"),
        ("detection.test={name='voc',split='test2007'}", "detection", "scenes and voc"),
        ("detection.train.kind=single_object", "detection", "single_object scenes train"),
        ("detection.detector=detectron2", "detection", "'detectron2'"),
        ("detection.mean=[0,0,0]", "detection", "None"),
        ("detection.precise_norm=3", "detection", "3"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_with_its_key(setting, key, value):
    message = complaint(setting)
    assert f"{key}:" in message or f"{key} " in message
    assert value is None or value in message


@pytest.mark.parametrize("temperatures", ["[0.1, 0.1]", "[0.1, 0.10000001]"])
def test_a_grid_whose_points_have_one_name_is_refused(temperatures):
    assert "info_nce-t0.1" in complaint(f"grid.temperatures={temperatures}")


def test_a_grid_point_that_trains_nothing_is_refused():
    assert "(0, 0)" in complaint("grid.weightings=[[1,1],[0,0]]")


@pytest.mark.parametrize("data", ["single_object", "multi_object"])
def test_fewer_images_than_a_batch_are_refused(data):
    message = complaint(f"{data}.data.images=50", "optimiser.batch=51")
    assert f"{data}.data.images is 50" in message and "51" in message
    assert smoke(f"{data}.data.images=51", "optimiser.batch=51").optimiser.batch == 51


@pytest.mark.parametrize(
    "path", ["about", "single_object", "optimiser.lr", "encoder.name", "grid.temperatures", "single_object.data.images"]
)
def test_a_missing_key_is_named(raw, written, path):
    *tables, key = path.split(".")
    place = raw
    for table in tables:
        place = place[table]
    del place[key]
    said = complaint(profile=written(raw))
    assert f"{path} is missing" in said and ("; base = 'smoke' takes" in said) == ("." not in path)


def test_one_kind_of_data_may_differ_from_the_profile_and_its_disjoint_views_from_it():
    changes = ["single_object.optimiser.lr=0.5", "single_object.grid.t=3", "single_object.disjoint.temperatures=[1]"]
    profile, plain = smoke(*changes), smoke()
    assert profile.optimiser_of("single_object") == plain.optimiser.model_copy(update={"lr": 0.5})
    assert profile.grid_of("single_object", "overlapping") == plain.grid.model_copy(update={"t": 3.0})
    disjoint = plain.grid.model_copy(update={"t": 3.0, "temperatures": (1.0,)})
    assert profile.grid_of("single_object", "disjoint") == disjoint
    for views in ("overlapping", "disjoint"):
        assert profile.sweep(Row(DENSE.method, "multi_object", views)) == plain.sweep(
            Row(DENSE.method, "multi_object", views)
        )
    row = Row(DENSE.method, "single_object", "disjoint")
    assert [s.pretrain.objective for s in profile.sweep(row)] == list(disjoint.objectives())


def test_untrained_encoders_do_not_hang_on_how_others_are_trained():
    plain = smoke().random_init()
    assert smoke("optimiser.epochs=3", "optimiser.batch=32", "grid.t=1").random_init() == plain
    assert smoke("single_object.augment.size=32").random_init() != plain


def test_a_profile_follows_another_whatever_the_backend_and_where_the_data_lie():
    paper, kinds = load_profile("paper"), ("single_object", "multi_object")
    found = paper.with_data(lambda data: data.model_copy(update={"source": "abc"}))
    same = load_profile("paper", ["detection.detector=detectron2", "single_object.optimiser.chunk=128", "seeds=2"])
    for kind in kinds:
        assert found.follows(paper, kind) and same.follows(paper, kind)
        assert not load_profile("gpu").follows(paper, kind) and not smoke().follows(paper, kind)
    shorter = load_profile("paper", ["multi_object.optimiser.epochs=20"])
    assert [shorter.follows(paper, kind) for kind in kinds] == [True, False]
    assert not load_profile("paper", ["detection.test.limit=100"]).follows(paper, "single_object")


def test_weightings_may_be_a_product():
    weightings = smoke("grid.weightings={w_a=[1,2],w_u=[3,4]}").grid.weightings
    assert weightings == ((1, 3), (1, 4), (2, 3), (2, 4))


def test_a_profile_may_be_based_on_another(tmp_path):
    (tmp_path / "half.toml").write_text('base = "smoke"\nabout = "half"\n[optimiser]\nepochs = 4\n')
    data = '{ name = "stl10", split = "train" }'
    (tmp_path / "mine.toml").write_text(f'base = "half.toml"\nseeds = 2\n[single_object]\ndata = {data}\n')
    mine = load_profile(str(tmp_path / "mine.toml"))
    assert (mine.name, mine.about, mine.seeds, mine.optimiser.epochs) == ("mine", "half", 2, 4)
    assert mine.optimiser == smoke("optimiser.epochs=4").optimiser
    assert mine.single_object.data == STL10Spec(name="stl10", split="train")
    assert mine.single_object.heldout == smoke().single_object.heldout


@pytest.mark.parametrize(
    ("base", "said"), [("smok", "did you mean 'smoke'?"), ("mine.toml", "leads back to itself"), ("a.toml", "a.toml")]
)
def test_a_base_that_makes_no_sense_is_named(tmp_path, base, said):
    (tmp_path / "mine.toml").write_text(f'base = "{base}"\n')
    assert said in complaint(profile=str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (STL10Spec(name="stl10", split="train+unlabeled"), 105_000),
        (COCOSpec(name="coco", split="train2017"), 118_287),
        (VOCSpec(name="voc", split="trainval2007+2012"), 16_551),
        (VOCSpec(name="voc", split="test2007", limit=10), 10),
    ],
)
def test_published_data_sets_have_their_published_sizes(spec, count):
    assert spec.count == count


@pytest.mark.parametrize("setting", ["optimiser.lr", "=3", "optimiser..lr=3", ".lr=3", "optimiser.=3", ""])
def test_a_setting_without_path_or_value_is_refused(setting):
    message = complaint(setting)
    assert "key.path=value" in message and repr(setting) in message


@pytest.mark.parametrize("setting", ["about.x=1", "optimiser.lr.x=1", "grid.temperatures.0=1"])
def test_a_path_through_a_value_is_refused(setting):
    message = complaint(setting)
    assert setting in message and "is a value, not a table" in message


def test_several_complaints_are_counted():
    assert "(and 1 more)" in complaint("optimiser.lr=0", "optimiser.batch=0")


def test_nearest():
    assert nearest("temprature", ["temperature", "batch"]) == "; did you mean 'temperature'?"
    assert nearest("zzz", ["temperature", "batch"]) == nearest("x", []) == ""


# Keys


# The sweep
