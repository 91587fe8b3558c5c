"""What the pages say is so: examples run, commands parse, and every name has its place in the reference."""

import dataclasses
import http.client
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import msgspec
import polars as pl
import pytest
import typer

import everloop as el
from everloop import errors
from everloop.cli.app import app
from everloop.data import sources
from everloop.loop import environment
from everloop.loop.installation import label_facts
from everloop.loop.simulate import simulate
from everloop.serve.settings import ServerSettings
from everloop.spec.load import load
from everloop.spec.resolve import resolve
from everloop.spec.trace import trace
from everloop.store.home import Home
from small_loop import SmallLoop

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDE, REFERENCE, OPERATIONS = (ROOT / "docs" / f"{name}.md" for name in ("guide", "reference", "operations"))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UP = "everloop up parcels.py"
PATIENCE = 60.0


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text("utf-8")) if found == language]


def commands_of(page: Path) -> list[str]:
    """Every `everloop …` that a page tells a reader to type, in blocks and in running text."""
    text = page.read_text("utf-8")
    lines = [line.removeprefix("$ ").strip() for _, block in BLOCK.findall(text) for line in block.splitlines()]
    typed = [line.partition("  #")[0].strip() for line in lines if line.startswith("everloop ")]
    # The first line of a replay's own output begins with its name, too; so does our row in a table of servers.
    typed = [line for line in typed if not line.startswith(("everloop  ", "everloop replay  ", "everloop demo  "))]
    typed = [line for line in typed if not line.startswith("everloop, ")]
    return typed + re.findall(r"`(everloop [a-z][^`]*)`", BLOCK.sub("", text))


# Code in the pages


@pytest.mark.parametrize("page", [page for page in PAGES if page != GUIDE], ids=lambda page: page.stem)
def test_python_in_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, code in enumerate(blocks(page, "python")):
        file = tmp_path / f"block_{number}.py"
        file.write_text(code, "utf-8")
        made = runpy.run_path(str(file), init_globals={"el": el, "td": timedelta})
        if callable(made.get("features")):
            assert trace(made["features"])


def test_the_declaration_of_the_readme_fits_the_made_data(tmp_path: Path) -> None:
    (code,) = (code for code in blocks(ROOT / "README.md", "python") if "el.Loop(" in code)
    simulate(tmp_path, days=60, rows_per_day=20)
    file = tmp_path / "parcels.py"
    file.write_text(code, "utf-8")
    (loop,) = load(file).loops
    schema = sources.schema_of(loop.source, tmp_path)
    assert resolve(loop, schema, label_facts(loop, tmp_path, schema)).task == "binary"


# The command line


def parsed(command: str) -> None:
    """Raises what the command line raises for words that it does not take; runs nothing."""
    group: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    context = group.make_context("everloop", words[:], resilient_parsing=True)
    while hasattr(group, "commands"):
        name, group, words = group.resolve_command(context, words)
        context = group.make_context(name, words[:], parent=context, resilient_parsing=hasattr(group, "commands"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_in_a_page_is_one(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for command in commands_of(page):
        words = shlex.split(command.partition(" | ")[0])
        if len(words) == 2 or words[-1].isupper():  # a mention: `everloop run`, `everloop check FILE`
            assert words[1] in group.commands, command
        else:
            parsed(command.partition(" | ")[0])


class Walk:
    """The guide as a reader walks it: one folder, commands in order, a server that really listens."""

    def __init__(self, folder: Path) -> None:
        self.loop = SmallLoop(folder, rows=pl.DataFrame())
        shutil.copyfile(ROOT / "examples" / "parcels.py", self.loop.file)
        self.port = 0

    def type(self, line: str) -> None:
        if line.startswith("everloop "):
            self._everloop(shlex.split(line)[1:])
        elif line.startswith("curl "):
            self._curl(shlex.split(line)[1:])
        else:
            subprocess.run(["sh", "-c", line], cwd=self.loop.folder, check=True)

    def _everloop(self, words: list[str]) -> None:
        if words[0] == "replay":
            words += ["--to", "2024-03-24"]  # the beginning is enough here
        deadline = time.monotonic() + PATIENCE
        # A prediction can be asked for a few seconds after it was made, a challenger once its turn has ended.
        while (ended := self.loop.command(*words)).code != 0:
            assert words[0] in ("why", "promote", "data"), f"everloop {' '.join(words)}: {ended.err}{ended.out}"
            assert time.monotonic() < deadline, f"everloop {' '.join(words)}: {ended.err}"
            time.sleep(0.2)
        assert ended.out.strip() or words[0] == "pause", words

    def _curl(self, words: list[str]) -> None:
        body = words[words.index("-d") + 1] if "-d" in words else None
        path = "/" + words[-1].partition("/")[2]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET" if body is None else "POST", path, body)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == (400 if "far" in (body or "") else 200), f"{words}: {text}"

    @contextmanager
    def up(self) -> Iterator[None]:
        """`everloop up` in a process group of its own, on a free port; always ended."""
        said = self.loop.folder / "up.out"
        command = [sys.executable, "-c", "from everloop.cli import main; main()"]
        with said.open("wb") as output:
            process = subprocess.Popen(
                [*command, "up", "parcels.py", "--port", "0", "--every", "1"],
                cwd=self.loop.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + PATIENCE
            while (found := re.search(r"serving on http://127\.0\.0\.1:(\d+)/", said.read_text("utf-8"))) is None:
                assert process.poll() is None, said.read_text("utf-8")
                assert time.monotonic() < deadline, said.read_text("utf-8")
                time.sleep(0.05)
            self.port = int(found[1])
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, said.read_text("utf-8")
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # lets it end its server, which has a group of its own
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.mark.slow
def test_the_guide_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "walk"
    walk = Walk(folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "parcels", raising=False)
    before, after = GUIDE.read_text("utf-8").split("## Serve\n")
    _walked(walk, before)
    with walk.up():
        _walked(walk, after.replace(f"$ {UP}\n", ""))
    monkeypatch.delitem(sys.modules, "parcels", raising=False)


def _walked(walk: Walk, text: str) -> None:
    for number, (language, block) in enumerate(BLOCK.findall(text)):
        if language == "python":
            file = walk.loop.folder / f"block_{number}.py"
            file.write_text(block, "utf-8")
            runpy.run_path(str(file))
        for line in block.splitlines() if language == "console" else ():
            if line.startswith("$ "):
                walk.type(line.removeprefix("$ "))


# The reference


def sections() -> dict[str, str]:
    """The text under each heading of the reference, by every name in the heading."""
    found: dict[str, str] = {}
    for part in re.split(r"^#{2,3} ", REFERENCE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        for name in re.findall(r"`([^`]+)`", heading):
            found[name] = text
    return found


def rows_of(text: str) -> dict[str, tuple[str, ...]]:
    """The rows of a section's tables, by what stands in the first cell."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip().strip("`"): tuple(each.strip() for each in cells[1:]) for cells in lines}


def shown_default(field: dataclasses.Field[Any]) -> str:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    if value is dataclasses.MISSING:
        return "needed"
    if isinstance(value, timedelta):
        whole = f"{value.days} day{'s' if value.days != 1 else ''}"
        return "0" if not value else whole if value == timedelta(days=value.days) else _minutes(value)
    if isinstance(value, el.AnyOf):
        return "`AnyOf(Every(7 days), Degraded(by=0.02))`"
    if dataclasses.is_dataclass(value):
        return f"`{type(value).__name__}()`"
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return f"`({', '.join(f'{type(each).__name__}()' for each in value)})`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value!r}`"


def _minutes(value: timedelta) -> str:
    count = value.seconds // 60
    return f"{count} minute{'s' if count != 1 else ''}"


def declaration_values() -> dict[str, type]:
    """Every dataclass that a declaration may hold, under the name that a user writes."""
    found = {name: getattr(el, name) for name in el.__all__}
    for family in ("alert", "augment", "check", "detector", "guard", "metric", "notify"):
        module = import_module(getattr(el, family).__name__)
        found |= {
            f"{family}.{name}": value for name, value in vars(module).items() if _is_public(value, module.__name__)
        }
    return {name: value for name, value in found.items() if isinstance(value, type) and dataclasses.is_dataclass(value)}


def _is_public(value: object, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module and not value.__name__.startswith("_")


@pytest.mark.parametrize("name", el.__all__)
def test_a_public_name_is_in_the_reference(name: str) -> None:
    assert re.search(rf"`[^`\n]*\b{name}\b", REFERENCE.read_text("utf-8")), f"{name} has no place in reference.md"


@pytest.mark.parametrize("name", declaration_values())
def test_a_field_is_in_the_reference_with_its_default(name: str) -> None:
    value: Any = declaration_values()[name]
    if name.startswith("metric.") and not dataclasses.fields(value):
        assert f"| `{name}` |" in REFERENCE.read_text("utf-8")
        return
    rows = rows_of(sections()[name])
    for field in dataclasses.fields(value):
        assert field.name in rows, f"{name}.{field.name} is not in the reference"
        assert rows[field.name][0] == shown_default(field), f"{name}.{field.name}"
        assert rows[field.name][1], f"{name}.{field.name} has no meaning"


def test_every_error_is_in_the_reference_with_its_exit_code() -> None:
    rows = rows_of(REFERENCE.read_text("utf-8"))
    for name, error in vars(errors).items():
        if isinstance(error, type):
            assert rows[name][:2] == (f"`{error.__base__.__name__}`", str(error.exit_code)), name  # type: ignore[attr-defined, union-attr]


def test_every_name_of_testing_is_in_the_reference() -> None:
    text = REFERENCE.read_text("utf-8")
    assert not [name for name in el.testing.__all__ if f"`testing.{name}" not in text]


def leaves(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command


@pytest.mark.parametrize(
    ("name", "command"), [pytest.param(*each, id=each[0]) for each in leaves(typer.main.get_command(app), "everloop")]
)
def test_a_command_is_in_the_reference_with_its_options(name: str, command: Any) -> None:
    (text,) = (text for heading, text in sections().items() if re.fullmatch(rf"{name}( [^a-z]+)?", heading))
    for parameter in command.params:
        word = parameter.opts[0]
        if parameter.param_type_name == "option" and word != "--help":
            assert f"`{word}`" in text, f"{name} {word}"
            assert parameter.help, f"{name} {word} has no help"


# Operations


def test_every_place_of_a_home_is_in_the_operations_page() -> None:
    text = OPERATIONS.read_text("utf-8")
    places = [name for name, value in vars(Home).items() if isinstance(value, property)] + ["lake", "segments"]
    for name in places:
        assert re.search(rf"\| `{name}[./]", text), name


def test_every_key_of_everloop_toml_is_in_the_operations_page() -> None:
    rows = rows_of(OPERATIONS.read_text("utf-8"))
    assert not environment.KNOWN - set(rows)


def test_every_setting_of_the_server_is_in_a_page_with_its_default() -> None:
    rows = {
        name: cells
        for page in PAGES
        if page.stem.startswith("serving")
        for name, cells in rows_of(page.read_text("utf-8")).items()
    }

    def parts_of(hint: Any) -> list[Any]:
        return [hint, *(part for each in get_args(hint) for part in parts_of(each))]

    def leaves_of(shape: Any, before: str = "") -> Iterator[tuple[str, Any]]:
        for field in msgspec.structs.fields(shape):
            inner = [each for each in parts_of(field.type) if hasattr(each, "__struct_fields__")]
            if inner:
                yield from leaves_of(inner[0], f"{before}{field.name}.")
            else:
                yield f"{before}{field.name}", field.default

    for name, default in leaves_of(ServerSettings):
        assert name in rows, f"{name} of [ENV.serve] is in no page"
        shown = rows[name][0].strip("`")
        if default is None or default is msgspec.NODEFAULT:
            assert shown == "–", name
        elif name != "cors.headers":
            assert json.loads(shown) == json.loads(msgspec.json.encode(default)), name


def test_every_metric_is_in_the_operations_page() -> None:
    source = (ROOT / "src" / "everloop" / "serve" / "exposition.py").read_text("utf-8")
    told = set(re.findall(r"`(everloop_\w+)`", OPERATIONS.read_text("utf-8")))
    assert set(re.findall(r'"(everloop_\w+)"', source)) == told


def test_every_exit_code_is_in_the_operations_page() -> None:
    text = OPERATIONS.read_text("utf-8")
    codes = {error.exit_code for error in vars(errors).values() if isinstance(error, type)}  # type: ignore[attr-defined]
    assert not [code for code in codes | {0, 2, 130} if f"| {code} |" not in text]


# The house


def tracked() -> list[Path]:
    """What the repository holds; every file of the clone where git is not there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is not a clone")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_names_a_machine() -> None:
    outside = re.compile(
        r"(?<![\w.])/(?:work|root|tmp|Users)/[\w.]"  # folders of somebody's machine
        r"|(?<![\d.])(?!127\.0\.0\.1|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\d.])"  # addresses
    )
    found: list[str] = []
    for file in tracked():
        if file == Path(__file__) or not file.is_file():
            continue
        try:
            lines = file.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, start=1):
            place = outside.search(line) if len(line) < 2_000 else None
            if place is not None:
                found.append(f"{file.relative_to(ROOT)}:{number}: {place[0]}")
    assert not found


def test_the_architecture_is_one_page() -> None:
    assert len((ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8").splitlines()) <= 60


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} → {target}"


def test_every_page_is_found_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert not [page.name for page in PAGES if page.name != "README.md" and f"(docs/{page.name})" not in text]
