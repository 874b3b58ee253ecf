"""The configuration: defaults, overrides, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_engine.config import COSTS, Bound, Config, load_config, make_config, name_from
from nas_engine.starter import write_starter
from search_spaces.errors import ConfigError, DataError, SpaceError


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    path = tmp_path / "try.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides)


# ---- reading -----------------------------------------------------------------------------------------------


def test_an_empty_file_means_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config(name="try")
    assert load(tmp_path, "# only a comment\nsearch:\nsupernet: {optimizer: }\n") == Config(name="try")


def test_written_yaml_reads_back_as_it_was(tmp_path: Path) -> None:
    config = make_config(
        {
            "name": "a",
            "space": {"name": "mobile", "widths": [8, 16]},
            "predictor": {"name": "gcn", "hidden": 32},
            "constraints": ["latency_ms <= 0.5", "accuracy > 0.9"],
            "data": {"augment": {"shift": 2}},
        }
    )
    assert load(tmp_path, config.to_yaml()) == config
    assert config.space.parameters == {"widths": [8, 16]}
    assert config.predictor.settings == {"hidden": 32}


def test_overrides_are_yaml_values_at_any_depth(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "search: {trials: 3}",
        "search.trials=7",
        "search.optimizer.learning_rate=1e-2",
        "space.channels=8",
        "constraints=[params < 1e5]",
        "data.limit=null",
        "name=other",
    )
    assert (config.search.trials, config.search.optimizer.learning_rate, config.name) == (7, 0.01, "other")
    assert config.space.parameters == {"channels": 8}
    assert config.bounds == (Bound("params", "<", 1e5),)


def test_numbers_with_an_exponent_are_numbers_wherever_they_stand(tmp_path: Path) -> None:
    config = load(tmp_path, "predictor: {learning_rate: 1e-3}\nspace: {dropout: 2E-1, label: 1e, depth: -1e+2}")
    assert config.predictor.settings == {"learning_rate": 0.001}
    assert config.space.parameters == {"dropout": 0.2, "label": "1e", "depth": -100.0}


def test_the_file_names_the_run() -> None:
    assert name_from("searches/digits.yaml") == "digits"
    assert name_from("a  b/my  first try!.yaml") == "my-first-try"
    assert name_from("...yaml") == "run"
    assert load_config(None).name == "run"


@given(st.text(max_size=30).filter(lambda t: "/" not in t and "\x00" not in t))
def test_any_file_name_gives_a_valid_run_name(stem: str) -> None:
    assert make_config({"name": name_from(f"{stem}.yaml")})


# ---- mistakes ----------------------------------------------------------------------------------------------

MISTAKES = {
    "search: {trails: 3}": r"unknown key 'search\.trails': did you mean 'trials'\?",
    "serch: {trials: 3}": r"unknown key 'serch': did you mean 'search'\?",
    "supernet: {optimizer: {momentun: 0.9}}": r"unknown key 'supernet\.optimizer\.momentun': did you mean 'momentum'\?",
    "search: {trials: many}": r"search\.trials: .* integer.*got 'many'",
    "search: {trials: 0}": r"search\.trials: .*greater than or equal to 1, got 0",
    "search: {trials: 1.5}": r"search\.trials: .*got 1\.5",
    "search: {trials: yes}": r"search: trials is a number, got true",
    "search: 5": r"search: Input should be a section of keys, got 5",
    "search: {trials: 3}\nsearch: {epochs: 4}": r"line 2: key 'search' is given twice",
    "search: {epochs: 3, grace_epochs: 9}": r"search\.grace_epochs 9 exceeds search\.epochs 3",
    "supernet: {optimizer: {learning_rate: .inf}}": r"learning_rate: .*finite number",
    "supernet: {strategy: fare}": r"supernet\.strategy: .*'uniform', 'fair', 'sandwich' or 'attentive', got 'fare'",
    "data: {augment: {shfit: 3}}": r"data\.augment: unknown augmentation 'shfit': did you mean 'shift'\?",
    "data: {augment: {shift: -3}}": r"data\.augment: augmentation shift must be a whole number",
    "constraints: latency <= 2": r"unknown metric 'latency' in a constraint: did you mean 'latency_ms'\?",
    "constraints: [latency_ms == 2]": r"constraint 'latency_ms == 2' is not of the form 'latency_ms <= 2\.0'",
    "constraints: [latency_ms <= 2ms]": r"is not of the form",
    "constraints: [latency_ms <= e-+]": r"does not end with a number",
    "constraints: 5": r"constraints are a list",
    "constraints: {latency_ms: 2}": r"constraints are a list",
    "objectives: {latency_ms: min}": r"objectives need 'accuracy: max'",
    "objectives: {accuracy: max, mac: min}": r"unknown objective 'mac': did you mean 'macs'\?",
    "objectives: {accuracy: max, macs: max}": r"objective 'macs' is a cost and can only be 'min'",
    "name: ../elsewhere": r"name: String should match pattern",
    "- a\n- b": r"holds list; a mapping of sections is expected",
    "a: [1": r"is not YAML: line 1",
    "a: b: c": r"is not YAML: line 1: mapping values are not allowed here",
    "5: 3": r"5: Keys should be strings",
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.items())
def test_a_mistake_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials", "is not of the form a.b=value"),
        ("=3", "is not of the form a.b=value"),
        ("name.x=3", "'name' is a value, not a section"),
        ("search.trials=x", "search.trials: .*got 'x'"),
        ("search.trails=3", "did you mean 'trials'"),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "", override)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file '.*gone\.yaml'; write one with: nas-engine init"):
        load_config(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "binary.yaml")


def test_several_mistakes_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.trials.*; .*unknown key 'export\.nets'"):
        load(tmp_path, "search: {trials: x}\nexport: {nets: 1}")


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda s: st.lists(s, max_size=3))
)
def test_any_value_of_any_section_is_taken_or_refused_in_one_line(value: object) -> None:
    for key in Config.model_fields:
        try:
            make_config({key: value})
        except ConfigError as e:
            assert "\n" not in str(e)  # noqa: PT017


# ---- bounds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("latency_ms <= 2", 2.0, True),
        ("latency_ms < 2", 2.0, False),
        ("accuracy >= 0.9", 0.9, True),
        ("accuracy > 0.9", 0.9, False),
        (" params<=1_000_000 ", 1e6, True),
        ("macs <= 1e6", 1e6 + 1, False),
    ],
)
def test_bounds(text: str, value: float, holds: bool) -> None:
    assert Bound.parse(text).holds(value) is holds


def test_excess_is_relative_and_signed() -> None:
    assert Bound.parse("latency_ms <= 2").excess(3.0) == pytest.approx(0.5)
    assert Bound.parse("latency_ms <= 2").excess(1.0) == pytest.approx(-0.5)
    assert Bound.parse("accuracy >= 0.8").excess(0.6) == pytest.approx(0.25)


@given(st.sampled_from((*COSTS, "accuracy")), st.sampled_from(("<=", "<", ">=", ">")), st.integers(0, 10**6))
def test_bounds_read_back_as_they_are_written(metric: str, operator: str, value: int) -> None:
    bound = Bound(metric, operator, float(f"{value:g}"))
    assert Bound.parse(str(bound)) == bound


# ---- the starter file ----------------------------------------------------------------------------------------


def test_the_starter_states_every_default(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "search.yaml"
    write_starter(path)
    assert load_config(path) == Config(name="search")
    written = yaml.safe_load(path.read_text())
    assert _keys(written) == _keys(Config().model_dump(mode="json"))


def _keys(value: dict, where: str = "") -> set[str]:
    inner = (_keys(v, f"{where}{k}.") for k, v in value.items() if isinstance(v, dict))
    return {f"{where}{k}" for k in value}.union(*inner)


@pytest.mark.parametrize(
    ("data", "space"),
    [("CIFAR10", "mobile"), ("npz:a folder/it's: #1.npz", "nasbench201"), ("folder:Ünï – 'x' \"y\"", "mobile")],
)
def test_the_starter_takes_any_data_and_space(tmp_path: Path, data: str, space: str) -> None:
    path = tmp_path / "no: such #name's.yaml"
    write_starter(path, data, space)
    config = load_config(path)
    assert (config.data.source, config.space.name, config.name) == (data, space, "no-such-name-s")


def test_the_starter_names_the_parameters_of_the_space(tmp_path: Path) -> None:
    write_starter(tmp_path / "a.yaml", space="nasbench201")
    text = (tmp_path / "a.yaml").read_text()
    assert "  # channels: 16\n" in text
    assert "input_shape" not in text
    uncommented = text.replace("  # channels: 16", "  channels: 8")
    assert load(tmp_path, uncommented).space.parameters == {"channels": 8}


def test_the_starter_takes_a_space_of_the_users_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from search_spaces import Choice, SearchSpace, register_space\n"
        "@register_space('starter_test')\n"
        "class Mine(SearchSpace):\n"
        "    def __init__(self, *, input_shape=(1, 8, 8), classes=10, width=3):\n"
        "        super().__init__([Choice('a', (1, 2))], input_shape=input_shape, classes=classes)\n"
        "    def graph(self, architecture): ...\n"
    )
    write_starter(tmp_path / "a.yaml", space=f"{file}:starter_test")
    assert load_config(tmp_path / "a.yaml").space.name == f"{file}:starter_test"
    assert "  # width: 3\n" in (tmp_path / "a.yaml").read_text()


def test_the_starter_refuses_what_cannot_work(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    with pytest.raises(DataError, match="did you mean 'digits'"):
        write_starter(path, data="digit")
    with pytest.raises(DataError, match="unknown kind of data source 'nzp': did you mean 'npz'"):
        write_starter(path, data="nzp:x")
    with pytest.raises(SpaceError, match="did you mean 'nasbench201'"):
        write_starter(path, space="nasbench")
    with pytest.raises(SpaceError, match="no file"):
        write_starter(path, space="gone.py:mine")
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"is there already.*--force"):
        write_starter(path)
    assert path.read_text() == "mine"
    write_starter(path, force=True)
    assert load_config(path) == Config(name="search")


# ---- baselines -----------------------------------------------------------------------------------------------


def test_baselines_are_names_or_mappings(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "constraints: latency_ms <= 0.5\n"
        "baselines: [timm:resnet18, {model: resnet20, width: 0.5, to: latency}, {model: a.py:f, resolution: 32}]",
    )
    assert [str(one) for one in config.baselines] == [
        "timm:resnet18",
        "resnet20, width x0.5, to latency by width",
        "a.py:f, at 32 pixels",
    ]
    assert load(tmp_path, config.to_yaml()) == config
    assert load(tmp_path, "", "baselines=timm:resnet18").baselines == config.baselines[:1]
    assert load(tmp_path, "baselines:").baselines == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("baselines: [{modle: x}]", r"unknown key 'baselines\.0\.modle': did you mean 'model'"),
        ("baselines: [x, x]", "baseline 'x' is given twice"),
        ("baselines: [3]", r"baselines\.0: .*got 3"),
        ("baselines: 3", "baselines: Input should be a list, got 3"),
        ("baselines: [{model: x, width: 0}]", r"baselines\.0\.width: .*greater than 0"),
        ("baselines: [{model: x, to: latency}]", "there is none; add a constraint such as 'latency_ms <= 2.0'"),
        ("baselines: [{model: x, rule: dwr}]", "rule 'dwr' says how 'x' is scaled to a latency; give to: latency too"),
        ("baselines: [x]\ndata: {source: 'text:a.txt'}", "baselines are networks for images, but 'text:a.txt' is"),
    ],
)
def test_baselines_that_make_no_sense_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)
