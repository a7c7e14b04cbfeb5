"""What a run uses of its configuration."""

from frcore.config import (
    Config,
)
from frcore.registry import METHODS


def selection(config: Config) -> Config:
    """What a run uses of its configuration, and every entry that those name: whole by itself."""
    run = config.run
    models, datasets = set(config.used_models()), set(config.used_datasets())
    degradations = {*run.degradations, *(g for _, g in config.test_sets())}
    for name in run.figures:
        degradations |= set(config.figures[name].degradations)
        models |= set(config.figures[name].models)
    size = -1
    while size != len(models) + len(datasets) + len(degradations):
        size = len(models) + len(datasets) + len(degradations)
        for name in [*models]:
            model = config.models[name]
            named = (model.settings.get(role) for role in METHODS[model.method].roles)
            models |= {helper for helper in named if helper}
            if model.train:
                datasets |= {*model.train.datasets, *model.train.low_quality}
                degradations |= set(model.train.degradations)
        for entry in [config.datasets[name] for name in datasets]:
            datasets |= {d for d in (entry.split.like, entry.reference) if d}
            degradations |= {g for g in (entry.low_quality,) if g}
            models |= {m for m in (entry.labels.model,) if m}
        learned = (config.degradations[name].learned for name in degradations)
        models |= {name for name in learned if name}

    def chosen(entries, names):
        return {name: entry for name, entry in entries.items() if name in names}

    return config.model_copy(
        update={
            "datasets": chosen(config.datasets, datasets),
            "degradations": chosen(config.degradations, degradations),
            "models": chosen(config.models, models),
            "figures": chosen(config.figures, run.figures),
            "assets": {},
        }
    )
