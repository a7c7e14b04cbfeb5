"""YAML -> checked configuration. Every error is one line that names its key."""

import contextlib
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from frcore.config.experiment import Config
from frcore.config.schema import ConfigError, Protocol
from frcore.config.yamlfile import check_shape, read_yaml, with_places
from frcore.registry import nearest

CATALOGUE = Path(__file__).resolve().parents[1] / "catalogue"
SECTIONS = ("datasets", "degradations", "models", "figures")  # a file of the catalogue each


def project_file(path: str, root: str | Path = CATALOGUE) -> str:
    """A file that the configuration names: from the working folder, or else from the catalogue.

    Unchanged when it is in neither, for the caller's message.
    """
    beside = Path(root) / path
    return str(beside) if beside.is_file() and not Path(path).is_file() else path


def with_catalogue(data: Mapping) -> dict:
    """A configuration's own entries over those of the catalogue, as `merge` does."""
    below = {name: read_yaml(CATALOGUE / f"{name}.yaml") for name in SECTIONS}
    return merge(below, data)


def load_config(source: str | Path | Mapping) -> Config:
    """Read and check a configuration.

    `source` is a file, which stands over the catalogue, or a mapping that is whole already.
    Raises ConfigError with one line per mistake; an unknown key names its nearest known neighbour.
    """
    if isinstance(source, Mapping):
        check_shape(source)
        return parse(Config, dict(source))
    with placed([source]):
        return parse(Config, with_catalogue(read_yaml(source)))


def load_experiment(path: str | Path, base: str | Path = "config.yaml") -> Config:
    """Read `path` merged over `base`, if that is there, as `snakemake --configfile path` does."""
    files = files_of(path, base)
    with placed(files):
        data: dict = {}
        for file in files:
            data = merge(data, read_yaml(file))
        return parse(Config, with_catalogue(data))


def files_of(path: str | Path, base: str | Path = "config.yaml") -> list[Path]:
    """The files that `load_experiment` merges, the last above the others."""
    path, base = Path(path), Path(base)
    return [path] if path.resolve() == base.resolve() or not base.is_file() else [base, path]


@contextlib.contextmanager
def placed(files: Sequence[str | Path]) -> Iterator[None]:
    """Add the file and line of its key, in one of `files`, to each line of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        if not files:
            raise
        raise ConfigError(with_places(error.mistakes, files, CATALOGUE)) from None


def catalogue_config() -> Config:
    """The catalogue alone, without a selection: what a command line without a file knows."""
    nothing = {"datasets": [], "degradations": [], "models": [], "protocol": "faces64"}
    return parse(Config, with_catalogue({"run": nothing}))


def merge(below: Mapping, above: Mapping) -> dict:
    """Mappings merge key by key; everything else of `above`, lists too, replaces what is below."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load_protocol(name: str, folder: str | Path = CATALOGUE / "protocols") -> Protocol:
    """Read protocols/NAME.yaml, of the working folder or else of the catalogue.

    Raises ConfigError naming the known ones for an unknown name.
    """
    places = [Path("protocols"), Path(folder)]
    path = next((p for place in places if (p := place / f"{name}.yaml").is_file()), None)
    if path is None:
        known = {item.stem for place in places for item in place.glob("*.yaml")}
        raise ConfigError([f"unknown protocol {name!r} {nearest(name, known)}"])
    return parse(Protocol, read_yaml(path), prefix=f"{path.name}: ")


def load_settings(model_class: type[BaseModel], data: Mapping, prefix: str = ""):
    """Check `data` against a strict model, with this module's one-line errors."""
    return parse(model_class, dict(data), prefix)


# not `repr`, which writes out all of a mapping that names itself ten times, nine times over
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def parse(model_class, data, prefix=""):
    try:
        return model_class.model_validate(data)
    except ConfigError as error:
        raise ConfigError([prefix + line for line in error.mistakes]) from None
    except ValidationError as error:
        lines = []
        items = error.errors()
        for item in items:
            inner = item.get("ctx", {}).get("error")
            if isinstance(inner, ConfigError):
                lines += [prefix + line for line in inner.mistakes]
            elif item["type"] != "too_short" or not _is_above(item, items):
                where = prefix + ".".join(_key(part) for part in item["loc"] if part != "[key]")
                lines.append(f"{where.removesuffix('.')}: {_text(model_class, item)}")
        raise ConfigError([*dict.fromkeys(lines)]) from None


def _is_above(item: Mapping, items: Sequence[Mapping]) -> bool:
    """Whether a list is too short only because one of its items is wrong."""
    return any(len(i["loc"]) > len(item["loc"]) and i["loc"][: len(item["loc"])] == item["loc"]
               for i in items)  # fmt: skip


def _key(part: str | int) -> str:
    text = str(part)
    return text if text.isprintable() and text else repr(text)


def _text(model_class, item: Mapping) -> str:
    """What is wrong, in words for somebody who wrote the file."""
    if item["type"] == "extra_forbidden":
        known = _keys_at(model_class, item["loc"][:-1])
        return f"unknown key {nearest(str(item['loc'][-1]), known)}"
    if item["type"] == "missing":
        return "is missing"
    if item["type"] == "string_pattern_mismatch":
        text = "a name begins with a letter or digit and has letters, digits and . _ - alone"
    else:
        text = item["msg"].removeprefix("Value error, ")
    # a mistake of a whole mapping names its keys itself
    return text if isinstance(item["input"], Mapping) else f"{text}, got {_shown(item['input'])}"


def _shown(value) -> str:
    return _SHORT.repr(value)[:120]


def _keys_at(model_class, location) -> list[str]:
    """Known keys of the model that `location` leads to, through mappings and unions."""
    candidates = [model_class]
    for part in location:
        following = []
        for candidate in candidates:
            field = candidate.model_fields.get(part) if isinstance(part, str) else None
            following += list(models_in(field.annotation)) if field else [candidate]
        candidates = following or candidates
    return sorted({key for candidate in candidates for key in candidate.model_fields})


def models_in(annotation) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from models_in(argument)
