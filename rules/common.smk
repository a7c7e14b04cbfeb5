"""The configuration, parsed once; names and input functions that the rules share. No rules here."""

import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))
from frcore import workflow as flow
from frcore.codehash import code_hash
from frcore.registry import METHODS

flow.set_environment(ROOT)
PLAN = flow.open_plan(config, ROOT)
CFG = PLAN.config
OUT = CFG.results
RES = CFG.resources
REPORT = f"{OUT}/report.html"
TABLES = [f"{OUT}/tables/{name}" for name in flow.TABLES]
METRICS_CODE = code_hash("frcore.metrics.score")


wildcard_constraints:
    dataset=flow.one_of(CFG.datasets),
    degradation=flow.one_of(CFG.degradations),
    model=flow.one_of(CFG.models),
    shard=r"\d{4}",


def before_any_job():
    """Stop with one line when a needed file cannot be had or jobs of a killed run are queued."""
    flow.before_any_job(PLAN, flow.assets_of_run(PLAN))


def asset_files(names):
    """Paths of pretrained parts and archives."""
    return [PLAN.asset_path(name) for name in names]


def shard_tables(wildcards, suffix=".csv"):
    """Tables of a dataset's shards."""
    shards = PLAN.shards(wildcards.dataset)
    return [f"{OUT}/faces/{wildcards.dataset}/{shard}{suffix}" for shard in shards]


def face_folders(dataset):
    """Folders of aligned faces, one a shard."""
    return [f"{OUT}/faces/{dataset}/{shard}" for shard in PLAN.shards(dataset)]


def true_faces(dataset):
    """Table and folders of a dataset's true faces, where they are known."""
    if CFG.datasets[dataset].low_quality:
        return []
    return [f"{OUT}/faces/{dataset}.csv", *face_folders(dataset)]


def truth_words(dataset):
    """Words of a command that say where the true faces are, where they are known."""
    path = f"{OUT}/faces/{dataset}"
    return f"--table '{path}.csv' --faces '{path}'" if true_faces(dataset) else ""


def set_features(dataset):
    """Features that distances of sets compare with, where there are some."""
    name = PLAN.truth_of(dataset)
    return [f"{OUT}/truth/{name}.npz"] if name else []


def feature_words(dataset):
    """Words of a command that say where those features are, and whose, if not the truth's."""
    words = [f"--features '{path}'" for path in set_features(dataset)]
    if words and CFG.datasets[dataset].low_quality:
        words.append(f"--reference {PLAN.truth_of(dataset)}")
    return " ".join(words)


def training_folders(model):
    """Folders that training reads: faces of every dataset, and their parsing maps if needed."""
    datasets = PLAN.trained_datasets(model)
    folders = [folder for dataset in datasets for folder in face_folders(dataset)]
    if PLAN.needs_labels(model):
        folders += [f"{OUT}/parsing/{dataset}" for dataset in datasets]
    return folders


def helper_paths(model):
    """(role, weights file) of the trained nets that a model leans on."""
    return [
        (role, PLAN.weights_path(name)) for role, name in CFG.helpers_of(model).items()
    ]


def degrader_paths(model):
    """(entry, weights file) of the degradation models whose pairs a model trains on."""
    return [(name, PLAN.weights_path(name)) for name in CFG.degraders_of(model)]


def named_weights(model):
    """(entry, weights file) of a model and the helpers that restoring needs."""
    names = [model, *CFG.helpers_of(model, training=False).values()]
    return [
        (name, PLAN.weights_path(name)) for name in names if PLAN.weights_path(name)
    ]


def parser_weights(dataset):
    """Weights of the parser that predicts a dataset's maps, if one does."""
    parser = PLAN.label_parser(dataset)
    return [PLAN.weights_path(parser)] if parser else []


def method_code(model):
    """Digest of the code that restores with a model."""
    helpers = [
        METHODS[CFG.models[name].method].module
        for name in CFG.helpers_of(model, training=False).values()
    ]
    return code_hash(
        "frcore.restore", METHODS[CFG.models[model].method].module, *helpers
    )


def figure_cells(figure, pattern):
    """One path for every model and degradation of an entry of `figures:`."""
    entry = CFG.figures[figure]
    paths = [
        pattern.format(m=model, d=entry.dataset, g=degradation)
        for model in entry.models
        for degradation in entry.degradations
    ]
    return list(dict.fromkeys(paths))


def cells(pattern):
    """One path for every model, dataset and degradation of the run."""
    return [
        pattern.format(model=m, dataset=d, degradation=g) for m, d, g in PLAN.runs()
    ]
