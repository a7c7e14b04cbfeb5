"""The digest of a job covers all code that the job runs: run under a profiler, by function.

What it left out would go stale without a word: a change there would make nothing again.
"""

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.workflow

# runs one rule's stage function on the finished toy run, its outputs elsewhere, and prints what of
# frcore ran and is not in the closure that the digest is made of
PROBE = """
import importlib, inspect, sys, threading
from pathlib import Path

sys.path.insert(0, ".")
from frcore.config import merge, read_yaml, with_catalogue
from frcore.registry import FEATURES, METRICS
from frcore.workflow.checks import open_plan
from frcore.workflow.codehash import SCHEMA, closure
from frcore.workflow.job import Files
from frcore.workflow.plan import HARNESS

out = Path(sys.argv[1])
data = with_catalogue(merge(read_yaml("config.yaml"), read_yaml("tests/toy.yaml")))
plan = open_plan(data)
R, d, g, m = Path("results"), "digiface", "x4_64", "toy_psfrgan"
shards = [R / "faces" / d / shard for shard in plan.shards(d)]
table, both = R / f"faces/{d}.csv", ("bicubic", m)
names = plan.protocol.metrics
cell = dict(model=m, dataset=d, degradation=g)
CASES = {
    "align_faces": (dict(dataset=d, shard="0000"), {}, ("faces", "table", "quarantine")),
    "join_faces": (dict(dataset=d), dict(tables=[f"{s}.csv" for s in shards],
                   quarantines=[f"{s}.quarantine.csv" for s in shards]), ("table", "quarantine")),
    "parse_faces": (dict(dataset=d), dict(table=table), ("maps",)),
    "degrade_faces": (dict(dataset=d, degradation=g), dict(table=table), ("images", "table")),
    "contact_sheet": (dict(dataset=d, degradation=g), dict(table=table), ("picture",)),
    "train_model": (dict(model=m), {}, ("weights",)),
    "restore_faces": (cell, dict(images=R / f"degraded/{d}/{g}", table=R / f"degraded/{d}/{g}.csv",
                      truth=[]), ("images", "table")),
    "truth_features": (dict(dataset=d), dict(table=table), ("features",)),
    "score_faces": (cell, dict(images=R / f"restored/{m}/{d}/{g}",
                    status=R / f"restored/{m}/{d}/{g}.csv", truth=[table],
                    features=[R / f"truth/{d}.npz"]), ("images", "sets")),
    "join_scores": ({}, dict(scores=[R / f"scores/{x}/{d}/{g}.csv" for x in both],
                    restored=[R / f"restored/{x}/{d}/{g}.csv" for x in both]), ("table",)),
    "comparison": ({}, dict(scores=R / "tables/scores.csv"), ("csv", "md", "tex")),
    "plot_scores": ({}, dict(scores=R / "tables/scores.csv"), ("png", "svg")),
    "panel": (dict(dataset=d, degradation=g),
              dict(restored=[R / f"restored/{x}/{d}/{g}" for x in both],
                   degraded=R / f"degraded/{d}/{g}", drawn=R / f"degraded/{d}/{g}.csv",
                   truth=[table]), ("picture",)),
    "report_page": ({}, {}, ("page",)),
    "licences": ({}, {}, ("table",)),
}
here = Path("frcore").resolve()


def file_of(rule, name):
    endings = {"table": "csv", "picture": "png", "features": "npz", "png": "png", "svg": "svg"}
    place = out / rule / (f"{name}.{endings[name]}" if name in endings else name)
    place.parent.mkdir(parents=True, exist_ok=True)
    listed = name in ("png", "svg")
    return [place.with_name(f"{x}.{name}") for x in names] if listed else place


for rule, (words, files, outputs) in CASES.items():
    made = {name: file_of(rule, name) for name in outputs}
    job = getattr(plan, rule)(**words)
    entries = [f"frcore.stages.{job.STAGE}:{rule}", *job.code()]
    more = {"state": str(out / "state"), "kept": str(out / rule / "kept")}
    more = {key: value for key, value in more.items() if key in type(job).model_fields}
    files = {"input": Files(**files), "output": Files(**made)}
    job = job.model_copy(update={**files, **more})
    covered = set(closure(*entries))
    if rule == "score_faces":
        parts = [METRICS[name].code for name in names]
    elif rule == "truth_features":
        parts = [FEATURES[name].code for name in plan.feature_digests]
    else:
        parts = []
    for part in parts:
        covered |= set(closure(*HARNESS, *part))
    ran = set()

    def profile(frame, event, _):
        # functions, not the bodies of classes, which run when their file is imported
        runs = event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED
        if runs and frame.f_code.co_filename.startswith(str(here)):
            name = frame.f_code.co_qualname.split(".")[0]
            path = Path(frame.f_code.co_filename).relative_to(here.parent).with_suffix("")
            ran.add((".".join(path.parts), name))

    stage = importlib.import_module(f"frcore.stages.{job.STAGE}")
    sys.setprofile(profile)
    threading.setprofile(profile)
    try:
        getattr(stage, rule)(job)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    left_out = sorted(
        f"{module}:{name}"
        for module, name in ran
        if not name.startswith("<")
        and not module.endswith("__init__")
        and not any(f"{module}:{name}".startswith((f"{s}.", f"{s}:")) or f"{module}:{name}" == s
                    for s in SCHEMA)
        and f"{module}:{name}" not in covered
    )
    print("RULE", rule, len(ran), *left_out, flush=True)
"""


def test_every_function_that_a_job_runs_is_in_its_digest(toy, tmp_path):
    words = [sys.executable, "-c", PROBE, str(tmp_path)]
    done = subprocess.run(words, cwd=toy, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("RULE")]
    assert len(lines) == 15
    for _, rule, n, *left_out in lines:
        assert int(n) >= 3 and not left_out, f"{rule}: {left_out}"
    # what is not here is asked for by name, or copies files
    rules = {path.stem for path in (ROOT / "workflow_scripts").glob("*.py")} - {"after_kill"}
    unseen = {"assess_prior", "assess_degradation", "assess_samples", "fetch_asset",
              "fetch_photos", "join_parts", "restore_part", "panel_of_strengths",
              "plot_training"}  # fmt: skip
    assert rules == {rule for _, rule, *_ in lines} | unseen
