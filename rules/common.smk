"""The configuration, parsed once; files and input functions that the rules share. No rules here."""

import sys
from pathlib import Path

HERE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))
sys.path.insert(0, str(HERE.parent))
from frcore.config import with_catalogue
from frcore.workflow.checks import open_plan, stop_before_any_job
from frcore.workflow.graph import TABLES as TABLE_NAMES, one_of
from frcore.workflow.processes import launcher, set_environment

set_environment(HERE.parent / "workflow_scripts")
# Snakemake formats the path, and the clone's may have braces
ENV = str(HERE.parent / "envs" / "frcore.yaml").replace("{", "{{").replace("}", "}}")
PLAN = open_plan(with_catalogue(config))
CFG = PLAN.config
OUT = CFG.results
RES = CFG.resources
REPORT = f"{OUT}/report.html"
TABLES = [f"{OUT}/tables/{name}" for name in TABLE_NAMES]


wildcard_constraints:
    dataset=one_of(CFG.datasets),
    degradation=one_of(CFG.degradations),
    model=one_of(CFG.models),
    prior=one_of(PLAN.priors()),
    degrader=one_of(PLAN.degraders()),
    figure=one_of(CFG.figures),
    shard=r"\d{4}",
    part=r"\d{4}",


def job(name, **cells):
    """Parameters of a rule: the digest of what changes its result, and what its script gets.

    The latter follows from the rule's files, so that it reruns nothing by itself. cells: what one
    job of many cells has in place of wildcards.
    """
    return {
        "digest": lambda wildcards: PLAN.digest(name, wildcards, **cells),
        "job": lambda wildcards, input, output: PLAN.argument(
            name, wildcards, input, output, **cells
        ),
    }


def before_any_job():
    """Stop with one line when a needed file cannot be had or jobs of a killed run are queued."""
    stop_before_any_job(PLAN, PLAN.all_assets())


def asset_files(names):
    """Paths of pretrained parts and archives."""
    return [PLAN.asset_path(name) for name in names]


# ----- faces
def listing(stem):
    """Outputs of a rule that lists faces, and the photographs that gave none."""
    return {"table": f"{stem}.csv", "quarantine": f"{stem}.quarantine.csv"}


def shards(wildcards):
    """Tables of a dataset's shards."""
    folders = face_folders(wildcards.dataset)
    return {
        "tables": [f"{folder}.csv" for folder in folders],
        "quarantines": [f"{folder}.quarantine.csv" for folder in folders],
    }


def face_folders(*datasets):
    """Folders of aligned faces, one a shard."""
    return [
        f"{OUT}/faces/{name}/{shard}"
        for name in datasets
        for shard in PLAN.shards(name)
    ]


def face_tables(datasets):
    """Tables of faces of some datasets."""
    return [f"{OUT}/faces/{dataset}.csv" for dataset in datasets]


def faces(wildcards):
    """Table and folders of a dataset's faces."""
    return faces_of(wildcards.dataset)


def faces_of(dataset):
    """Table and folders of a dataset's faces."""
    return {"table": f"{OUT}/faces/{dataset}.csv", "folders": face_folders(dataset)}


def true_faces(dataset):
    """Table and folders of a dataset's true faces, where they are known."""
    if CFG.datasets[dataset].low_quality:
        return []
    return [*face_tables([dataset]), *face_folders(dataset)]


def reference_faces(model, dataset):
    """Faces among which a method finds a good photograph of the same person, if it wants one."""
    return true_faces(dataset) if PLAN.needs_reference(model) else []


# ----- images with their table: of a degraded test set, of a restored one
DEGRADED = f"{OUT}/degraded/{{dataset}}/{{degradation}}"
RESTORED = f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}"


def image_set(folder):
    """Outputs of a rule that makes images and a table of them."""
    return {"images": directory(folder), "table": f"{folder}.csv"}


def cells(pattern, **names):
    """The pattern's paths for some datasets, degradations or models."""
    return expand(pattern, **names)


def image_sets(pattern, **names):
    """Outputs of a rule that makes several folders of images, each with its table."""
    folders = cells(pattern, **names)
    return {
        "images": [directory(folder) for folder in folders],
        "table": [f"{folder}.csv" for folder in folders],
    }


def inputs_of_restoring(model, dataset, degradations):
    """Degraded sets of a dataset, and what restoring them with a model reads."""
    folders = cells(DEGRADED, dataset=dataset, degradation=degradations)
    return {
        "images": folders,
        "table": [f"{folder}.csv" for folder in folders],
        "weights": PLAN.made(PLAN.weights_of(model)),
        "assets": asset_files(PLAN.restoring_assets(model)),
        "truth": reference_faces(model, dataset),
    }


def inputs_of_scoring(dataset, models, degradations):
    """Restored sets of a dataset, and what they are compared with."""
    names = {"model": models, "dataset": dataset, "degradation": degradations}
    folders = cells(RESTORED, **names)
    return {
        "images": folders,
        "status": [f"{folder}.csv" for folder in folders],
        "truth": true_faces(dataset),
        "features": set_features(dataset),
        "assets": asset_files(PLAN.metric_assets()),
    }


def score_files(**names):
    """Outputs of a rule that measures restored sets."""
    stems = cells(f"{OUT}/scores/{{model}}/{{dataset}}/{{degradation}}", **names)
    return {
        "images": [f"{stem}.csv" for stem in stems],
        "sets": [f"{stem}.sets.csv" for stem in stems],
    }


def restored_parts(wildcards):
    """Folders and tables of the shares of a restored test set."""
    cell = RESTORED.format(**wildcards)
    folders = [f"{cell}.parts/{part}" for part in PLAN.parts(wildcards.model)]
    return {"images": folders, "tables": [f"{folder}.csv" for folder in folders]}


def score_tables(wildcards):
    """What every model got on every test set of the run: scores, and the status of each face."""
    cells = [f"{m}/{d}/{g}" for m, d, g in PLAN.runs()]
    return {
        "scores": [f"{OUT}/scores/{cell}.csv" for cell in cells],
        "sets": [f"{OUT}/scores/{cell}.sets.csv" for cell in cells],
        "restored": [f"{OUT}/restored/{cell}.csv" for cell in cells],
    }


def figure_cells(figure, pattern):
    """One path for every model and degradation of an entry of `figures:`."""
    entry = CFG.figures[figure]
    paths = [
        pattern.format(model=model, dataset=entry.dataset, degradation=degradation)
        for model in entry.models
        for degradation in entry.degradations
    ]
    return list(dict.fromkeys(paths))


def set_features(dataset):
    """Features that distances of sets compare with, where there are some."""
    name = PLAN.truth_of(dataset)
    return [f"{OUT}/truth/{name}.npz"] if name else []


# ----- weights
def model_files(names, file="weights.json"):
    """A file beside the weights of each of some trained entries."""
    return [f"{OUT}/models/{name}/{file}" for name in names]


def training_folders(model):
    """Folders that training reads: faces of every dataset, and their parsing maps if needed."""
    datasets = PLAN.trained_datasets(model)
    maps = [f"{OUT}/parsing/{name}" for name in datasets if PLAN.needs_labels(model)]
    return [*face_folders(*datasets), *maps]


def training_weights(model):
    """Weights made by other jobs that training starts from or leans on."""
    made = PLAN.train_model(model)
    return PLAN.made([made.start, *made.helpers.values(), *made.degraders.values()])


def parser_weights(dataset):
    """Weights of the parser that predicts a dataset's maps, if jobs make them."""
    parser = PLAN.label_parser(dataset)
    return PLAN.made([PLAN.weights_path(parser)]) if parser else []


def resources_for(section, model):
    """What an entry's `train:` or `restore:` asks of a cluster."""
    asked = getattr(CFG.models[model], section)
    gpus = PLAN.gpus if section == "train" else PLAN.restore_gpus
    return {"gpu": gpus(model), "mem_mb": asked.memory_mb, "runtime": asked.minutes}


def resources_of(section):
    """The same by the wildcard `model`."""

    def asked(key):
        return lambda wildcards: resources_for(section, wildcards.model)[key]

    return {key: asked(key) for key in ("gpu", "mem_mb", "runtime")}


# ----- the report
def shown(path, caption, category, **labels):
    """An output that Snakemake's own report shows."""
    caption = f"captions/{caption}.rst"
    return report(
        f"{OUT}/{path}", caption=caption, category=category, labels=labels or None
    )


def restored_of_run(dataset, degradation):
    """A test set as each model of the run restored it."""
    models = CFG.run.models
    return cells(RESTORED, model=models, dataset=dataset, degradation=degradation)


def panel_picture(dataset, degradation):
    """The panel of one test set."""
    path = f"figures/panels/{dataset}/{degradation}.png"
    return shown(path, "panel", "Panels", dataset=dataset, degradation=degradation)


def all_panels():
    """Datasets and degradations of the run's panels."""
    datasets, degradations = zip(*CFG.test_sets())
    return {"dataset": datasets, "degradation": degradations}


def comparison_tables():
    """The tables for print."""
    stem = f"{OUT}/tables/comparison"
    md = shown("tables/comparison.md", "comparison", "Tables")
    return {"csv": f"{stem}.csv", "md": md, "tex": f"{stem}.tex"}


def score_figures():
    """A figure a metric."""
    names = [f"figures/scores/{metric}" for metric in PLAN.protocol.metrics]
    return {
        "png": [shown(f"{name}.png", "plot_scores", "Figures") for name in names],
        "svg": [f"{OUT}/{name}.svg" for name in names],
    }


def shown_sets():
    """Datasets and degradations of the run's contact sheets."""
    first = CFG.first_shown()
    return {"dataset": list(first.values()), "degradation": list(first)}


def contact_sheets():
    """The pictures of the run's degradations, each on the first dataset that is seen under it."""
    first = CFG.first_shown().items() if CFG.run.contact_sheets else ()
    return [f"{OUT}/figures/degradations/{d}/{g}.png" for g, d in first]
