"""One-line faults, planted in the library while it is imported: its files stay as they are.

A fault is found by its text and not by its file, so that it survives when code moves. In a file of Lua, the text is
replaced when the file is read to put a script together; in Python, when the module that has the text is imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

PACKAGE = "dramatiq_clutch"
FOLDER = Path(__file__).parents[2] / PACKAGE

LUA = FOLDER / "backends" / "redis" / "lua"

#: The module that puts scripts together, and its function that reads a file: the one place where scripts are changed.
COMPOSER, READER = f"{PACKAGE}.backends.redis.scripts", "text_of"

#: What stands for the broker's script where those that have it in them are only read.
QUIET = "return 1"

#: What is added to the name of a script that has it.
ALONG = ", along"


@dataclass(frozen=True)
class Mutant:
    """A fault of one line, and the guarantee that the library breaks with it.

    Parameters:
      guarantee: what a user relies on and no longer gets, in plain words.
      old: the text that is replaced.
      new: what stands there instead.
      detector: who has to notice: `contract`, `machine`, `explorer`, or the path of a test file, with a test's name
        after `::` where one test is enough.
      file: the only file that is changed, without its suffix, where others have the same text: `reopen`, `lib/take`.
      language: `lua` or `python`.
    """

    name: str
    guarantee: str
    old: str
    new: str
    detector: str = "contract"
    file: str = ""
    language: str = "lua"

    def applied_to(self, text: str) -> str:
        return text.replace(self.old, self.new)

    def place(self) -> Path:
        """The file that has the text. Raises LookupError if there is none, or if there are several."""
        pattern = "*.lua" if self.language == "lua" else "*.py"
        found = [file for file, text in texts(pattern).items() if self.old in text and self._may_be_in(file)]
        if not found:
            raise LookupError(f"mutant {self.name!r}: no file of the library has its text any more: {self.old!r}")
        if len(found) > 1:
            raise LookupError(f"mutant {self.name!r}: its text is in several files: {found}")
        return found[0]

    def _may_be_in(self, file: Path) -> bool:
        return not self.file or name_of(file) == self.file


def name_of(file: Path) -> str:
    """The name of a file of the library, without its suffix: of Lua, as scripts name it; of Python, in the package."""
    return file.relative_to(LUA if file.suffix == ".lua" else FOLDER).with_suffix("").as_posix()


@cache
def texts(pattern: str) -> dict[Path, str]:
    """What stands in the library's files."""
    return {file: file.read_text() for file in sorted(FOLDER.rglob(pattern))}


def plant(mutant: Mutant) -> None:
    """Have this process import the library with the fault in it. Raises LookupError if its text isn't found, and
    RuntimeError if the library has been imported already."""
    if any(name.partition(".")[0] == PACKAGE for name in sys.modules):
        raise RuntimeError(f"mutant {mutant.name!r} comes too late: {PACKAGE} has been imported")
    file = mutant.place()
    module = COMPOSER if mutant.language == "lua" else f"{PACKAGE}.{name_of(file).replace('/', '.')}"
    sys.meta_path.insert(0, Finder(module.removesuffix(".__init__"), mutant))


class Finder(MetaPathFinder):
    """Finds one module, and has it loaded with the fault."""

    def __init__(self, module: str, mutant: Mutant) -> None:
        self.module, self.mutant = module, mutant

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.origin is not None
        loader = ChangedScripts if self.mutant.language == "lua" else ChangedSource
        spec.loader = loader(name, spec.origin, self.mutant)
        return spec


class Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self.mutant = mutant


class ChangedSource(Loader):
    """Loads a module with the fault in it, from its source and never from a cache."""

    def get_code(self, fullname: str) -> CodeType:
        source = importlib.util.decode_source(self.get_data(self.path))
        return compile(self.mutant.applied_to(source), self.path, "exec", dont_inherit=True)


class ChangedScripts(Loader):
    """Loads the module that puts scripts together, which then reads the file with the fault in it."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        setattr(module, READER, changed_reader(getattr(module, READER), self.mutant))


def changed_reader(read: Callable[[str], str], mutant: Mutant) -> Callable[[str], str]:
    """What reads a file of Lua, but for the fault in it."""
    file = f"{name_of(mutant.place())}.lua"
    return lambda name: mutant.applied_to(read(name)) if name == file else read(name)


def changed_texts(mutant: Mutant) -> Iterator[tuple[str, str]]:
    """What has the fault in it, by name: scripts as they are put together, or a module. Raises LookupError if there is
    nothing."""
    file = mutant.place()
    if mutant.language == "python":
        yield file.name, mutant.applied_to(texts("*.py")[file])
        return
    module, file_name = importlib.import_module(COMPOSER), file.relative_to(LUA).as_posix()
    of_it = [name for name, script in composed_scripts().items() if any(file_name == part for part, _ in script.origin)]
    changes = False
    for name in of_it:  # one at a time: some callers want the first only
        with mock.patch.object(module, READER, changed_reader(lambda name: texts("*.lua")[LUA / name], mutant)):
            script = compose(module, [name])[name]
        if script.text != composed_scripts()[name].text:
            changes = True
            yield name, script.text
    if not changes:
        raise LookupError(f"mutant {mutant.name!r} changes no script: its text is a comment, or in no script")


@cache
def composed_scripts() -> Mapping[str, Any]:
    """Every script as the library puts it together, by name."""
    module = importlib.import_module(COMPOSER)
    return compose(module, [*module.script_names(), *(f"{name}{ALONG}" for name in module.WITH_BROKER)])


def compose(module: Any, names: Iterable[str]) -> dict[str, Any]:
    """These scripts as the module puts them together now, whatever it has put together before."""
    fresh, found = module.script.__wrapped__, dict[str, Any]()
    module.source_of.cache_clear()
    for name in names:
        plain = name.removesuffix(ALONG)
        found[name] = fresh(plain) if plain == name else fresh(plain, QUIET)
    module.source_of.cache_clear()
    return found
