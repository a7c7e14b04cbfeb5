"""The configuration, parsed once; names and input functions that the rules share. No rules here."""

import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))
from frcore import workflow as flow

flow.set_environment(ROOT)
PLAN = flow.open_plan(config, ROOT)
CFG = PLAN.config
OUT = CFG.results
RES = CFG.resources
REPORT = f"{OUT}/report.html"
TABLES = [f"{OUT}/tables/{name}" for name in flow.TABLES]


wildcard_constraints:
    dataset=flow.one_of(CFG.datasets),
    degradation=flow.one_of(CFG.degradations),
    model=flow.one_of(CFG.models),
    shard=r"\d{4}",
    part=r"\d{4}",


def digest(name):
    """Parameter of a rule: what changes its result, and nothing else."""
    return lambda wildcards: PLAN.digest(name, wildcards)


def job(name):
    """What a rule gives its script. It follows from the files, so it reruns nothing by itself."""
    return lambda wildcards, input, output: PLAN.argument(
        name, wildcards, input, output
    )


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


def face_tables(datasets):
    """Tables of faces of some datasets."""
    return [f"{OUT}/faces/{dataset}.csv" for dataset in datasets]


def face_folders(*datasets):
    """Folders of aligned faces, one a shard."""
    return [
        f"{OUT}/faces/{name}/{shard}"
        for name in datasets
        for shard in PLAN.shards(name)
    ]


def true_faces(dataset):
    """Table and folders of a dataset's true faces, where they are known."""
    if CFG.datasets[dataset].low_quality:
        return []
    return [f"{OUT}/faces/{dataset}.csv", *face_folders(dataset)]


def set_features(dataset):
    """Features that distances of sets compare with, where there are some."""
    name = PLAN.truth_of(dataset)
    return [f"{OUT}/truth/{name}.npz"] if name else []


def training_folders(model):
    """Folders that training reads: faces of every dataset, and their parsing maps if needed."""
    datasets = PLAN.trained_datasets(model)
    maps = [f"{OUT}/parsing/{name}" for name in datasets if PLAN.needs_labels(model)]
    return [*face_folders(*datasets), *maps]


def training_weights(model):
    """Weights made by other jobs that training starts from or leans on."""
    made = PLAN.train_model(model)
    return PLAN.made([made.start, *made.helpers.values(), *made.degraders.values()])


def reference_faces(model, dataset):
    """Faces among which a method finds a good photograph of the same person, if it wants one."""
    return true_faces(dataset) if PLAN.needs_reference(model) else []


def parser_weights(dataset):
    """Weights of the parser that predicts a dataset's maps, if jobs make them."""
    parser = PLAN.label_parser(dataset)
    return PLAN.made([PLAN.weights_path(parser)]) if parser else []


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


def restored_parts(wildcards, suffix):
    """Folders or tables of the shares of a restored test set."""
    cell = f"{wildcards.model}/{wildcards.dataset}/{wildcards.degradation}"
    parts = PLAN.parts(wildcards.model)
    return [f"{OUT}/restored/{cell}.parts/{part}{suffix}" for part in parts]


def contact_sheets():
    """The pictures of the run's degradations, each on the first dataset that is seen under it."""
    shown = CFG.first_shown().items() if CFG.run.contact_sheets else ()
    return [f"{OUT}/figures/degradations/{d}/{g}.png" for g, d in shown]
