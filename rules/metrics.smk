"""Scores of every restored set, per image and per set.

Needs restored/, faces/ and the metrics' nets. Leaves truth/{dataset}.npz (features of the truth,
computed once; for faces without one, of the good faces they name as reference) and
scores/{model}/{dataset}/{degradation}.csv and .sets.csv. What was measured before is in kept/,
which is no output: a new metric is measured alone.
"""


rule truth_features:
    """Features and statistics of a dataset's truth that the set metrics compare with."""
    input:
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
        assets=asset_files(PLAN.metric_assets()),
    output:
        features=f"{OUT}/truth/{{dataset}}.npz",
    log:
        f"{OUT}/logs/truth/{{dataset}}.log",
    conda:
        "../envs/frcore.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        digest=digest("truth_features"),
        job=job("truth_features"),
    shell:
        'python "$SCRIPTS"/truth_features.py {params.job:q} > {log} 2>&1'


rule score_faces:
    """All metrics of the protocol for one model on one test set."""
    input:
        images=f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}",
        status=f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}.csv",
        truth=lambda wc: true_faces(wc.dataset),
        features=lambda wc: set_features(wc.dataset),
        assets=asset_files(PLAN.metric_assets()),
    output:
        images=f"{OUT}/scores/{{model}}/{{dataset}}/{{degradation}}.csv",
        sets=f"{OUT}/scores/{{model}}/{{dataset}}/{{degradation}}.sets.csv",
    log:
        f"{OUT}/logs/score/{{model}}/{{dataset}}/{{degradation}}.log",
    benchmark:
        f"{OUT}/benchmarks/score/{{model}}/{{dataset}}/{{degradation}}.tsv"
    conda:
        "../envs/frcore.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        digest=digest("score_faces"),
        job=job("score_faces"),
    shell:
        'python "$SCRIPTS"/score_faces.py {params.job:q} > {log} 2>&1'
