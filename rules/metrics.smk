"""Scores of every restored set, per image and per set.

One job measures all sets of a dataset that the run selects (`run: {models_per_score: N}` says how
many models at most); others are measured one by one. Needs restored/, faces/ and the metrics' nets. Leaves truth/{dataset}.npz (features of the truth,
computed once; for faces without one, of the good faces they name as reference) and
scores/{model}/{dataset}/{degradation}.csv and .sets.csv. What was measured before is in kept/,
which is no output: a new metric is measured alone.
"""


rule truth_features:
    """Features and statistics of a dataset's truth that the set metrics compare with."""
    input:
        unpack(faces),
        assets=asset_files(PLAN.metric_assets()),
    output:
        features=f"{OUT}/truth/{{dataset}}.npz",
    log:
        f"{OUT}/logs/truth/{{dataset}}.log",
    conda:
        ENV
    params:
        **job("truth_features"),
    shell:
        'python "$SCRIPTS"/truth_features.py {params.job:q} > {log:q} 2>&1'


rule score_faces:
    """All metrics of the protocol for one model on one test set."""
    input:
        images=RESTORED,
        status=f"{RESTORED}.csv",
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
        ENV
    params:
        **job("score_faces"),
    shell:
        'python "$SCRIPTS"/score_faces.py {params.job:q} > {log:q} 2>&1'


for name, d, models, found in PLAN.scored_together():

    rule:
        name:
            f"score_{name}"
        input:
            **inputs_of_scoring(d, models, found),
        output:
            **score_files(model=models, dataset=d, degradation=found),
        log:
            f"{OUT}/logs/score/{name}.log",
        benchmark:
            f"{OUT}/benchmarks/score/{name}.tsv"
        conda:
            ENV
        params:
            **job("score_faces", model=models, dataset=d, degradation=found),
        shell:
            'python "$SCRIPTS"/score_faces.py {params.job:q} > {log:q} 2>&1'
