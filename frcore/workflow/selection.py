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
            entry = config.models[name]
            roles = METHODS[entry.method].roles
            models |= {entry.settings.get(role) for role in roles}
            if entry.train:
                datasets |= {*entry.train.datasets, *entry.train.low_quality}
                degradations |= set(entry.train.degradations)
        for entry in [config.datasets[name] for name in datasets]:
            datasets |= {entry.split.like, entry.reference}
            degradations.add(entry.low_quality)
            models.add(entry.labels.model)
        models |= {config.degradations[name].learned for name in degradations - {None}}
        models, datasets, degradations = (x - {None} for x in (models, datasets, degradations))

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
