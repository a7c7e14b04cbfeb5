"""`frcore list` and `frcore check`: what there is, and whether a configuration is right."""

import json

from frcore.cli.common import config_of, print_table


def list_all(args) -> int:
    """Models of the configuration and of weights/, methods and metrics."""
    config = config_of(args)
    listing = {"models": _models(config), "methods": _methods(), "metrics": _metrics()}
    if args.json:
        print(json.dumps(listing, indent=2))
        return 0
    print("models")
    print_table(listing["models"], ["name", "method", "size", "parameters", "weights", "title"])
    print("\nmethods")
    columns = ["name", "kind", "trained", "data", "parameters", "helpers", "title"]
    print_table(listing["methods"], columns)
    print("\nmetrics")
    print_table(listing["metrics"], ["name", "kind", "better", "truth", "min_side", "what"])
    return 0


def _models(config) -> list[dict]:
    from frcore.config import CATALOGUE
    from frcore.io.cards import card_of, find_weights

    rows = []
    for name, entry in config.models.items():
        path = find_weights(name, config, results=config.results)
        row = {"name": name, "method": entry.method, "title": entry.title or ""}
        row["parameters"], size = _parameters(entry.method, entry.settings)
        rows.append({**row, "size": size, "weights": _place(path)})
    known = {row["name"] for row in rows}
    for path in sorted((CATALOGUE / "weights").glob("*.safetensors")):
        if path.stem not in known:
            card = card_of(path) or {}
            parameters, size = _parameters(card["method"], card["settings"])
            row = {"name": path.stem, "method": card["method"], "title": "", "size": size}
            rows.append({**row, "parameters": parameters, "weights": _place(path)})
    return rows


def _place(path) -> str:
    from frcore.config import CATALOGUE

    if path is None:
        return "none"
    return "shipped" if path.is_relative_to(CATALOGUE) else str(path)


def _methods() -> list[dict]:
    from frcore.registry import METHODS

    rows = []
    for name, row in METHODS.items():
        parameters, _ = _parameters(name, {})
        rows.append(
            {
                "name": name,
                "title": row.title,
                "kind": row.role,
                "trained": "yes" if row.trained else "no",
                "data": row.data,
                "parameters": parameters,
                "helpers": ",".join(row.roles),
                "paper": row.paper,
            }
        )
    return rows


def _metrics() -> list[dict]:
    from frcore.registry import METRICS

    better = {True: "higher", False: "lower", None: ""}
    return [
        {
            "name": name,
            "title": row.title,
            "kind": row.kind,
            "better": better[row.higher_is_better],
            "truth": "yes" if row.needs_truth else "no",
            "assets": ",".join(row.assets),
            "min_side": row.min_side,
            "unit": row.unit,
            "what": row.what,
        }
        for name, row in METRICS.items()
    ]


def _parameters(method: str, settings) -> tuple[int, int | str]:
    """Parameters of the network that restores, and the side of its faces ("" when it has none).

    Those of the catalogue are counted in parameters.json, for building a network takes torch and
    its time; others are built.
    """
    from frcore.config import CATALOGUE
    from frcore.registry import METHODS, default_of

    size = settings.get("size", default_of(METHODS[method].module, "size"))
    known = json.loads((CATALOGUE / "parameters.json").read_text(encoding="utf-8"))
    count = known.get(method, {}).get(json.dumps(settings, sort_keys=True))
    return count_parameters(method, settings) if count is None else count, size or ""


def count_parameters(method: str, settings) -> int:
    """Parameters of the network that a method restores with. Raises ConfigError for settings."""
    from frcore.config import load_settings
    from frcore.registry import load_method

    module = load_method(method)
    checked = load_settings(module.Settings, settings, f"{method}.settings.")
    # not on the meta device: spectral norm's power iterations take 100 times longer there
    return sum(item.numel() for item in module.build(checked).parameters())


def counts_of_catalogue() -> dict[str, dict[str, int]]:
    """What frcore/catalogue/parameters.json holds: {method: {settings as JSON: parameters}}."""
    from frcore.config import catalogue_config
    from frcore.registry import METHODS

    asked = [(entry.method, entry.settings) for entry in catalogue_config().models.values()]
    asked += [(name, {}) for name in METHODS]
    found: dict[str, dict[str, int]] = {}
    for method, settings in asked:
        key = json.dumps(settings, sort_keys=True)
        found.setdefault(method, {})[key] = count_parameters(method, settings)
    return found


def check(args) -> int:
    """The whole configuration: keys, names, protocol, catalogue, settings of each method."""
    from frcore.config import ConfigError, load_protocol
    from frcore.io.assets import catalogue
    from frcore.restore.models import config_mistakes

    config = config_of(args)
    mistakes = []
    for part in (
        lambda: load_protocol(config.run.protocol),
        lambda: catalogue(config.assets),
    ):
        try:
            part()
        except ConfigError as error:
            mistakes += error.mistakes
    mistakes += config_mistakes(config)
    if mistakes:
        raise ConfigError(mistakes)
    print(
        f"ok: {len(config.models)} models, {len(config.datasets)} datasets, "
        f"{len(config.degradations)} degradations; selected {len(config.run.models)} models on "
        f"{len(config.run.datasets)} datasets, protocol {config.run.protocol}"
    )
    return 0
