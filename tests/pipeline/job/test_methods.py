"""Methods that installed distributions offer: found by their entry points, or named and left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from tamis.operators.methods import (
    METHODS,
    AnyMethod,
    Artifact,
    Csa,
    Features,
    Larf,
    Method,
    Reduce,
    Saft,
    Toss,
    TossPro,
    setting,
)
from tamis.operators.methods.toss import Training
from tamis.operators.requests import Request
from tamis.pipeline import cli
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job import job_file, methods
from tamis.pipeline.job.job_file import job_schema, load_job
from tamis.pipeline.job.methods import known, section_of, settings_of
from tamis.pipeline.planning.fingerprint import settings_of as settings_in_a_fingerprint

MINIMAL: dict[str, Any] = {"input": "data.jsonl", "output": "out", "model": "models/m"}

MODULE = """
from dataclasses import dataclass
from typing import ClassVar
from tamis.operators.methods import Artifact, Method, setting
from tamis.operators.requests import Request

@dataclass(frozen=True)
class Good(Method):
    name: ClassVar[str] = "good"
    title: ClassVar[str] = "Good"
    about: ClassVar[str] = "a method."
    k: int = setting(3, "How many.", ge=1)

    def requests(self, blocks):
        return (Request(0, "last_token"),)

    def fit(self, reduce, blocks):
        return Artifact({})

    def score(self, artifact, features):
        raise NotImplementedError

class Bare:
    name = "bare"

@dataclass(frozen=True)
class Searching(Good):
    name: ClassVar[str] = "searching"

    def block_search(self):
        return None

@dataclass(frozen=True)
class Sharing(Good):
    name: ClassVar[str] = "sharing"
    section: ClassVar[str] = "saft"

@dataclass(frozen=True)
class Twin(Good):
    name: ClassVar[str] = "larf"

@dataclass(frozen=True)
class Token(Good):
    name: ClassVar[str] = "toss"

@dataclass(frozen=True)
class Needy(Good):
    name: ClassVar[str] = "needy"
    k: int = setting(0, "Its own default is out of bounds.")

    def __post_init__(self):
        raise ValueError("k is too small")
"""


@pytest.fixture
def offering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mapping[str, methods.Known]]]:
    """Installs a distribution with these entry points; the methods that there are then."""
    caches = (known, job_file._with_methods)

    def offer(**offers: str) -> Mapping[str, methods.Known]:
        site = tmp_path / "site"
        info = site / "tamis_more-1.2.dist-info"
        info.mkdir(parents=True)
        (site / "tamis_more.py").write_text(MODULE)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tamis-more\nVersion: 1.2\n")
        lines = "".join(f"{name} = {value}\n" for name, value in offers.items())
        (info / "entry_points.txt").write_text(f"[tamis.methods]\n{lines}")
        monkeypatch.syspath_prepend(str(site))
        for cache in caches:
            cache.cache_clear()
        return known()

    yield offer
    monkeypatch.undo()
    sys.modules.pop("tamis_more", None)
    for cache in caches:
        cache.cache_clear()


def test_a_method_of_a_distribution(offering: Callable[..., Mapping[str, methods.Known]]) -> None:
    found = offering(good="tamis_more:Good")
    assert [*found] == [*METHODS, "good"]
    assert found["good"].distribution == "tamis-more 1.2"
    assert methods.distributions(["larf", "good"]) == {"good": "tamis-more 1.2"}
    job = load_job(None, {**MINIMAL, "method": ["good", "saft"], "good.k": 5})
    assert job.of("good").k == 5
    assert load_job(None, {**MINIMAL, "method": "saft"}).of("good").k == 3
    assert load_job(None, job.model_dump(mode="json")) == job
    schema = job_schema()
    assert schema["$defs"]["GoodSpec"]["properties"]["k"]["minimum"] == 1
    assert schema["$defs"]["GoodSpec"]["description"] == "Good: a method."
    assert "good" in str(schema["properties"]["method"])


@pytest.mark.parametrize(
    ("offers", "says"),
    [
        ({"bare": "tamis_more:Bare"}, "is no dataclass that derives from"),
        ({"other": "tamis_more:Good"}, "it calls itself good"),
        ({"searching": "tamis_more:Searching"}, "block_search is for LARF alone"),
        ({"sharing": "tamis_more:Sharing"}, "section are for TOSS alone"),
        ({"larf": "tamis_more:Twin"}, "another method has this name"),
        ({"toss": "tamis_more:Token"}, "another method has this name"),
        ({"needy": "tamis_more:Needy"}, "ValueError: k is too small"),
        ({"gone": "tamis_more:Gone"}, "AttributeError"),
        ({"away": "tamis_away:Away"}, "ModuleNotFoundError: No module named 'tamis_away'"),
    ],
)
def test_what_is_no_method_is_named_and_left_out(
    offering: Callable[..., Mapping[str, methods.Known]],
    capsys: pytest.CaptureFixture[str],
    offers: dict[str, str],
    says: str,
) -> None:
    found = offering(**offers, good="tamis_more:Good")
    assert [*found] == [*METHODS, "good"]
    assert found["larf"].kind is Larf
    [name] = offers
    said = capsys.readouterr().err
    assert said.count(f"the method {name} of tamis-more 1.2 is left out: ") == 1
    assert says in said


@pytest.mark.parametrize("kinds", [[Larf], [Saft], [Csa], [Toss, TossPro]])
def test_a_section_has_every_setting_and_its_default(kinds: list[type[AnyMethod]]) -> None:
    section = section_of(*kinds)
    settings = {item.name for kind in kinds for item in fields(kind) if item.metadata["in_job"]}  # type: ignore[arg-type]
    files = {f"{name}_references" for name in kinds[0].references} | {f"{name}_model" for name in kinds[0].models}
    assert set(section.model_fields) == settings | files
    assert all(field.description for field in section.model_fields.values())
    for kind in kinds:
        assert kind(**settings_of(kind, section())) == kind()
    assert methods.sections()[kinds[0].section_name()] is section


def test_a_list_of_blocks_or_auto() -> None:
    overlay = {**MINIMAL, "method": "csa"}
    assert load_job(None, overlay).of("csa").blocks == "auto"
    assert load_job(None, overlay, ["csa.blocks=[3, 1, 2]"]).of("csa").blocks == [1, 2, 3]
    for value in ("[]", "[-1]", "3", "middle", "[1.5]"):
        with pytest.raises(ConfigError) as caught:
            load_job(None, overlay, [f"csa.blocks={value}"])
        assert all(line.startswith("csa.blocks") for line in str(caught.value).splitlines()), str(caught.value)


def test_what_a_paper_has_and_a_method_has_not_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Csa, "not_offered", {"spread": "CSA has none: leave it out"})
    for key, says in (("spread", "csa.spread: CSA has none"), ("modles", "unknown key csa.modles")):
        with pytest.raises(ConfigError) as caught:
            load_job(None, {**MINIMAL, "method": "csa", f"csa.{key}": 1})
        [line] = str(caught.value).splitlines()
        assert line.startswith(says)


def test_no_setting_of_a_method_is_called_not_offered() -> None:
    for item in known().values():
        assert not set(item.kind.not_offered) & set(section_of(item.kind).model_fields)
        assert all(said.endswith("leave it out") for said in item.kind.not_offered.values())


@pytest.mark.parametrize(
    ("value", "made"),
    [
        ("b", [("b", None, "auto")]),
        ("[b, {name: c, revision: v1, blocks: [3, 1]}]", [("b", None, "auto"), ("c", "v1", [1, 3])]),
        ("{name: c, blocks: [2]}", [("c", None, [2])]),
        ("[]", []),
    ],
)
def test_a_list_of_sections(value: str, made: list[Any]) -> None:
    job = load_job(None, {**MINIMAL, "method": "csa"}, [f"csa.models={value}"])
    models = Csa(**settings_of(Csa, job.of("csa"))).models
    assert [(model.name, model.revision, model.blocks) for model in models] == made
    assert load_job(None, job.model_dump(mode="json")) == job


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("[{nam: b}]", "unknown key csa.models.0.nam; did you mean csa.models.0.name?"),
        ("[{blocks: [1]}]", "csa.models.0.name is missing"),
        ("[{name: b, blocks: [-1]}]", "csa.models.0.blocks.0: "),
        ("[3]", "csa.models.0: "),
    ],
)
def test_a_list_of_sections_is_checked(value: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(None, {**MINIMAL, "method": "csa"}, [f"csa.models={value}"])
    assert any(line.startswith(says) for line in str(caught.value).splitlines()), str(caught.value)


def test_the_order_of_blocks_is_no_setting() -> None:
    fingerprints = [
        settings_in_a_fingerprint(load_job(None, {**MINIMAL, "method": "csa"}, [f"csa.blocks={blocks}"]))
        for blocks in ("[3, 1, 2]", "[1, 2, 3]")
    ]
    assert fingerprints[0] == fingerprints[1]
    assert not {"csa.models", "csa.normalise"} & fingerprints[0].keys()


def test_several_models_apply_no_artifact() -> None:
    overlay = {**MINIMAL, "method": "csa", "artifact": "there"}
    assert load_job(None, overlay).artifact == "there"
    with pytest.raises(ConfigError, match=r"csa\.models: scores are scaled by the corpus of their own run"):
        load_job(None, overlay, ["csa.models=b"])


def test_a_section_within_a_section() -> None:
    overlay = {**MINIMAL, "method": "toss-pro", "toss.utility_references": "good.jsonl", "toss.rounds": 2}
    job = load_job(None, {**overlay, "toss.training.rank": 4, "toss.training.target_modules": "c_attn"})
    assert job.masking == TossPro(rounds=2, training=Training(rank=4, target_modules=["c_attn"]))
    assert load_job(None, overlay).masking.training == Training()
    for key, value, says in (
        ("rnak", 4, "unknown key toss.training.rnak; did you mean toss.training.rank?"),
        ("rank", 0, "toss.training.rank: "),
        ("target_modules", [], "toss.training.target_modules: "),
    ):
        with pytest.raises(ConfigError) as caught:
            load_job(None, {**overlay, f"toss.training.{key}": value})
        assert all(line.startswith(says) for line in str(caught.value).splitlines())


def test_the_command_line_names_every_method() -> None:
    [option] = cli.MethodFlag.__metadata__  # type: ignore[attr-defined]
    words = set(option.help.replace(",", " ").rstrip(".").split())
    assert set(METHODS) <= words


@dataclass(frozen=True)
class Limited(Method):
    """Of each kind of setting one."""

    name: ClassVar[str] = "limited"
    title: ClassVar[str] = "Limited"
    about: ClassVar[str] = "limits."

    share: float = setting(0.5, "A share.", gt=0, lt=1)
    words: list[str] = setting([], "Some words.", pattern=r"\S")
    step: int | None = setting(None, "A step, or none.", ge=2)

    def requests(self, blocks: int) -> tuple[Request, ...]:
        return ()

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        return Artifact({})

    def score(self, artifact: Artifact, features: Features) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("good", [{"share": 0.1}, {"words": "one"}, {"words": ["a", "b"]}, {"step": 2}, {"step": None}])
def test_what_limits_allow(good: dict[str, Any]) -> None:
    [(name, value)] = good.items()
    made = getattr(section_of(Limited)(**good), name)
    assert made == (["one"] if value == "one" else value)


@pytest.mark.parametrize("bad", [{"share": 0}, {"share": 1}, {"words": [" "]}, {"words": ""}, {"step": 1}, {"k": 1}])
def test_what_limits_forbid(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section_of(Limited)(**bad)


def test_a_list_is_no_list_of_others() -> None:
    one, two = Limited(), Limited()
    assert one.words == []
    assert one.words is not two.words
