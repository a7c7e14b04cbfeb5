"""YAML files: read strictly, and where in them a key stands. Every mistake names the file."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from frcore.config.schema import ConfigError

DEEPEST, LARGEST = 30, 1_000_000  # levels and values of a configuration


class _Loader(yaml.SafeLoader):
    """SafeLoader that remembers keys that one mapping has twice."""

    def __init__(self, stream):
        super().__init__(stream)
        self.twice: list[str] = []

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen: dict[tuple, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                place, line = (key.tag, key.value), key.start_mark.line + 1
                if place in seen:
                    first = seen[place]
                    self.twice.append(f"{line}: {key.value}: is there in line {first} already")
                seen.setdefault(place, line)
        return node


def read_yaml(path: str | Path) -> dict:
    """A YAML mapping. ConfigError, a line a mistake, for anything else: a file that is not there or
    no UTF-8, keys that are there twice, what nests too deep."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        loader = _Loader(text)
        try:
            data = loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}: line {line} is no UTF-8 text"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: nested too deep"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from None
    # ValueError and the like: a date of month 13, a number of 10,000 digits
    except (yaml.YAMLError, ValueError, ArithmeticError, TypeError) as error:
        raise ConfigError([f"{path}: {' '.join(str(error).split())[:300]}"]) from None
    if loader.twice:
        raise ConfigError([f"{path}:{text}" for text in loader.twice])
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: expected a mapping, got {type(data).__name__}"])
    check_shape(data, f"{path}: ")
    return data


def check_shape(data: Mapping, prefix: str = "") -> None:
    """ConfigError for what nests too deep or into itself, is too large, or holds text that no file
    can hold; names the key."""
    count = 0
    waiting: list[tuple] = [(data, ())]
    while waiting:
        value, keys = waiting.pop()
        count += 1
        where = ".".join(map(str, keys[:4]))
        if len(keys) > DEEPEST or count > LARGEST:
            text = "nested too deep" if len(keys) > DEEPEST else "too large"
            raise ConfigError([f"{prefix}{where}: {text}"])
        if isinstance(value, Mapping):
            for key, item in value.items():
                if not isinstance(key, str):
                    text = f"expected text as a key, got {key!r}: write it in quotes"
                    place = f"{where}.{key}" if where else str(key)
                    raise ConfigError([f"{prefix}{place}: {text}"])
                waiting += [(key, keys), (item, (*keys, key))]
        elif isinstance(value, list | tuple):
            waiting += [(item, keys if i < 0 else (*keys, i)) for i, item in enumerate(value)]
        elif isinstance(value, str) and not _can_be_written(value):
            raise ConfigError([f"{prefix}{where}: text that is no Unicode"])


def _can_be_written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def with_places(mistakes: Sequence[str], files: Sequence[str | Path], catalogue: Path) -> list[str]:
    """Mistakes, each with the file and line of its key: "(mine.yaml:12)".

    files: those that the configuration was merged of, the last one above the others. catalogue: the
    folder below them all.
    """
    trees = [(str(path), "", _tree(path)) for path in reversed([*map(str, files)])]
    trees += [(f"{catalogue.name}/{p.name}", p.stem, _tree(p)) for p in catalogue.glob("*.yaml")]
    return [line + _place_of(line, trees) for line in mistakes]


def _place_of(line: str, trees: list[tuple]) -> str:
    keys = line.partition(":")[0]
    best, place = 0, trees[0][0] if trees else ""
    for name, section, tree in trees:
        inside = keys.removeprefix(f"{section}.") if section else keys
        if tree is None or (section and inside == keys):
            continue
        depth, at = _follow(tree, inside)
        depth += bool(section)
        if depth > best and at:
            best, place = depth, f"{name}:{at}"
    named = any(line.startswith(f"{name}:") for name, _, _ in trees)
    return f" ({place})" if place and not named else ""


def _tree(path: str | Path) -> yaml.Node | None:
    try:
        return _composed(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


@functools.lru_cache(32)
def _composed(text: str) -> yaml.Node | None:
    return yaml.compose(text, yaml.SafeLoader)


def _follow(node: yaml.Node, keys: str) -> tuple[int, int]:
    """How many parts of "a.b.c" are there, and the line of the last of them, from 1."""
    depth = line = 0
    while keys:
        for key, child in _children(node):
            if keys == key.value or keys.startswith(f"{key.value}."):
                node, keys = child, keys[len(key.value) + 1 :]
                depth, line = depth + 1, key.start_mark.line + 1
                break
        else:
            break
    return depth, line


def _children(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping, longest keys first: names may have dots; items of a list."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            mark = item.start_mark
            yield yaml.ScalarNode("", str(i), mark, mark), item
    elif isinstance(node, yaml.MappingNode):
        pairs = [pair for pair in node.value if isinstance(pair[0], yaml.ScalarNode)]
        yield from sorted(pairs, key=lambda pair: -len(pair[0].value))
