"""Names resolve to built-ins and plugins; clashes and failures name the package."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from xcvae.errors import ComponentError
from xcvae.registry import Component, Registry, build, describe, hookimpl, registry

HOOK = "from xcvae.registry import hookimpl\n"
GOOD = """
    from dataclasses import dataclass
    from xcvae.registry import Component, hookimpl

    @dataclass(frozen=True)
    class Peak(Component):
        factor: float = 1.0

        def __post_init__(self):
            if self.factor <= 0:
                raise ValueError(f"factor must be positive, got {self.factor}")

    @hookimpl
    def xcvae_components():
        return {"metric": {"peak": Peak, "lazy": "MODULE_late:Late"}}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a plugin package the way pip leaves it: a module and its .dist-info."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("XCVAE_NO_PLUGINS", raising=False)

    def write(package: str, source: str, *, point: str | None = None) -> None:
        text = textwrap.dedent(source).replace("MODULE", package)
        (tmp_path / f"{package}.py").write_text(text)
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[xcvae]\n{point or package} = {package}\n")

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_names_lists_built_ins_without_importing_them() -> None:
    code = (
        "import sys; from xcvae.registry import registry; r = registry();"
        "assert 'crps' in r.names('metric') and 'kl' in r.names('loss');"
        "assert {e.package for e in r.entries()} >= {'xcvae'};"
        "heavy = ('torch', 'xcvae.metrics', 'xcvae.generator');"
        "loaded = [m for m in sys.modules if m.startswith(heavy)];"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_describe_has_package_and_version_of_a_plugin(install) -> None:
    install("rainpeaks", GOOD)
    found = Registry()
    peak = found.build("metric", {"name": "peak", "factor": 2})
    assert peak.factor == 2.0
    assert found.name_of("metric", peak) == "peak"
    assert found.describe("metric", peak) == {
        "name": "peak",
        "factor": 2.0,
        "package": "rainpeaks",
        "version": "1.2",
    }
    assert "peak" in found.names("metric")
    assert "rainpeaks_late" not in sys.modules
    with pytest.raises(ComponentError, match=r"lazy' of rainpeaks 1\.2: the module rainpeaks_late"):
        found.resolve("metric", "lazy")


def test_registry_without_plugins_has_built_ins_only(
    install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("rainpeaks", GOOD)
    monkeypatch.setenv("XCVAE_NO_PLUGINS", "1")
    assert "peak" not in Registry().names("metric")
    monkeypatch.setenv("XCVAE_NO_PLUGINS", "0")
    assert "peak" in Registry().names("metric")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("import not_there_at_all", "ModuleNotFoundError"),
        ("x = 1", "implements no hook"),
        (
            HOOK + "@hookimpl\ndef xcvae_componets(): return {}",
            "xcvae_componets",
        ),
        (
            HOOK + "@hookimpl\ndef xcvae_components(): return 3",
            "expected a dict",
        ),
        (
            HOOK + "@hookimpl\ndef xcvae_components(): return {'metrics': {}}",
            "Did you mean 'metric'",
        ),
        (
            HOOK + "@hookimpl\ndef xcvae_components(): return {'metric': {'a b': 'x:Y'}}",
            "a name like",
        ),
        (
            HOOK + "@hookimpl\ndef xcvae_components(): return {'metric': {'a': 'x.Y'}}",
            "module:Class",
        ),
        (
            HOOK + "@hookimpl\ndef xcvae_components(): return {'metric': {'a': len}}",
            "dataclass",
        ),
    ],
)
def test_registry_survives_a_broken_plugin(install, source: str, words: str) -> None:
    install("abroken", source)
    install("rainpeaks", GOOD)
    found = Registry()
    assert words in found.broken["abroken"]
    assert "abroken 1.2" in found.broken["abroken"]
    assert found.build("metric", "peak").factor == 1.0
    with pytest.raises(ComponentError, match="could not be loaded: abroken"):
        found.resolve("metric", "of_the_broken_one")


def test_build_refuses_a_name_of_two_plugins(install) -> None:
    install("rainpeaks", GOOD)
    install("snowpeaks", GOOD.replace('"lazy": "MODULE_late:Late"', ""), point="rainpeaks")
    found = Registry()
    with pytest.raises(ComponentError, match=r"rainpeaks 1\.2 and snowpeaks 1\.2"):
        found.build("metric", "peak")
    assert [e.package for e in found.entries() if e.name == "peak"] == ["rainpeaks", "snowpeaks"]
    assert "crps" in found.names("metric")


def test_plugins_cannot_replace_a_built_in(install) -> None:
    install("rainpeaks", GOOD.replace('"peak"', '"crps"'))
    found = Registry()
    assert "claimed by two packages: xcvae" in found.broken["rainpeaks"]
    assert "rainpeaks 1.2" in found.broken["rainpeaks"]
    assert {e.package for e in found.entries() if e.name == "crps"} == {"xcvae"}


@dataclass(frozen=True)
class Local(Component):
    """A component of these tests."""

    size: int = 1

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.size < 1:
            raise ValueError(f"size must be >= 1, got {self.size}")

    def __call__(self, forecast: object, observed: object) -> object:
        """Score nothing."""
        return None


@dataclass(frozen=True)
class Other(Local):
    """Another one."""


class LocalPlugin:
    """A plugin object with given names."""

    def __init__(self, names: dict[str, object] | None = None) -> None:
        self.names = {"local": Local} if names is None else names

    @hookimpl
    def xcvae_components(self) -> dict[str, dict[str, object]]:
        """Name them."""
        return {"metric": self.names}


@pytest.mark.parametrize("plugin", [LocalPlugin(), LocalPlugin])
def test_register_accepts_objects_and_classes(plugin: object) -> None:
    found = Registry()
    found.register(plugin)
    assert found.build("metric", "local") == Local()


def test_register_accepts_a_module_name(install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("rainpeaks", GOOD)
    monkeypatch.setenv("XCVAE_NO_PLUGINS", "1")
    found = Registry()
    found.register("rainpeaks")
    assert found.build("metric", "peak").factor == 1.0
    with pytest.raises(ComponentError, match="cannot be imported"):
        found.register("not_there_at_all")


def test_register_with_a_clash_registers_nothing() -> None:
    found = Registry()
    with pytest.raises(ComponentError, match="claimed by two packages: xcvae"):
        found.register(LocalPlugin({"fresh": Local, "crps": Local}))
    assert "fresh" not in found.names("metric")
    found.register(LocalPlugin())
    with pytest.raises(ComponentError, match="claimed by two packages"):
        found.register(LocalPlugin({"fresh": Local, "local": Other}))
    assert "fresh" not in found.names("metric")
    assert found.resolve("metric", "local") is Local


def test_register_refuses_a_clash_every_time() -> None:
    """A refused plugin counts as unknown: it is not taken for one that is registered already."""
    found, plugin = Registry(), LocalPlugin({"fresh": Local, "crps": Local})
    for _ in range(2):
        with pytest.raises(ComponentError, match="crps"):
            found.register(plugin)


def test_register_again_is_not_a_clash() -> None:
    found = Registry()
    found.register(LocalPlugin)
    found.register(LocalPlugin)
    found.register(LocalPlugin())
    found.register(LocalPlugin({"another": Other}))
    found.register(LocalPlugin())
    assert found.build("metric", "local") == Local()
    assert found.build("metric", "another") == Other()


CELL = """
from dataclasses import dataclass
from xcvae.registry import Component, hookimpl

@dataclass(frozen=True)
class Size(Component):
    value: int = VALUE

class Plugin:
    @hookimpl
    def xcvae_components(self):
        return {"metric": NAMES}
"""


def cell(value: int, names: str) -> type:
    """Run the cell of a notebook that defines a plugin."""
    space: dict[str, type] = {"__name__": "__main__"}  # type: ignore[dict-item]
    exec(CELL.replace("VALUE", str(value)).replace("NAMES", names), space)
    return space["Plugin"]


@pytest.mark.parametrize("made", [lambda plugin: plugin, lambda plugin: plugin()])
def test_register_replaces_the_plugin_of_a_notebook_cell(made) -> None:
    found = Registry()
    found.register(made(cell(1, "{'size': Size, 'old': Size}")))
    assert found.build("metric", "size").value == 1
    found.register(made(cell(2, "{'size': Size, 'new': Size}")))
    assert found.build("metric", "size").value == 2
    assert found.build("metric", "new").value == 2
    assert "old" not in found.names("metric")
    with pytest.raises(ComponentError, match="claimed by two packages: xcvae"):
        found.register(made(cell(3, "{'size': Size, 'crps': Size}")))
    assert found.build("metric", "size").value == 2


def test_register_separates_classes_made_by_a_function() -> None:
    def plugin(name: str) -> object:
        class Made:
            @hookimpl
            def xcvae_components(self) -> dict[str, dict[str, type]]:
                return {"metric": {name: Local}}

        return Made()

    found = Registry()
    found.register(plugin("first"))
    found.register(plugin("second"))
    assert {"first", "second"} <= set(found.names("metric"))


def test_build_accepts_name_dict_and_instance() -> None:
    found = Registry()
    found.register(LocalPlugin())
    instance = Local(size=2)
    assert found.build("metric", {"name": "local", "size": 2}) == instance
    assert found.build("metric", instance) is instance
    assert found.build("metric", len) is len
    assert found.name_of("metric", len) == "len"
    assert found.describe("metric", Needless())["name"] == "Needless"


class Needless:
    """A callable that is not registered."""

    def __call__(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("locl", "Did you mean 'local'"),
        ({"name": "local", "size": 0}, "metric 'local': size must be >= 1"),
        ({"name": "local", "size": True}, "parameter 'size': expected an integer"),
        ({"name": "local", "sise": 1}, "Did you mean 'size'"),
        ({"size": 1}, "expected a name"),
        (3, "expected a name"),
        (Local, "expected a name"),
    ],
)
def test_build_refuses_wrong_specs(spec: object, words: str) -> None:
    found = Registry()
    found.register(LocalPlugin())
    with pytest.raises(ComponentError, match=words):
        found.build("metric", spec)


def test_build_refuses_instances_with_wrong_types() -> None:
    with pytest.raises(ComponentError, match="parameter 'size'"):
        Registry().build("metric", Local(size=2.5))  # type: ignore[arg-type]


def test_build_refuses_unknown_kinds() -> None:
    with pytest.raises(ComponentError, match="Did you mean 'metric'"):
        registry().names("metrics")  # type: ignore[arg-type]


def test_registry_is_one_per_process() -> None:
    assert registry() is registry()
    with pytest.raises(ComponentError, match="unknown baseline"):
        build("baseline", "blinear")
    assert describe("metric", Local(3))["size"] == 3
