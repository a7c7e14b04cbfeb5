"""Scores of every restored set, per image and per set.

Needs restored/, faces/ and the metrics' nets. Leaves truth/{dataset}.npz (features of the truth,
computed once; for faces without one, of the good faces they name as reference) and
scores/{model}/{dataset}/{degradation}.csv and .sets.csv.
"""


rule truth_features:
    """Features and statistics of a dataset's truth that the set metrics compare with."""
    input:
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
        assets=asset_files(PLAN.metric_assets()),
    output:
        f"{OUT}/truth/{{dataset}}.npz",
    log:
        f"{OUT}/logs/truth/{{dataset}}.log",
    conda:
        "../envs/frcore.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        protocol=PLAN.protocol_spec(),
        frame=lambda wc: PLAN.frame_spec(wc.dataset),
        limit=lambda wc: CFG.datasets[wc.dataset].test_limit or 0,
        faces=lambda wc: f"{OUT}/faces/{wc.dataset}",
        root=lambda wc: RES,
        code=METRICS_CODE,
    shell:
        'python "$SCRIPTS"/truth_features.py --protocol {params.protocol:q} --frame {params.frame:q}'
        " --table {input.table:q} --faces {params.faces:q} --limit {params.limit}"
        " --resources {params.root:q} --out {output:q} > {log} 2>&1"


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
        protocol=PLAN.protocol_spec(),
        frame=lambda wc: PLAN.frame_spec(wc.dataset),
        truth=lambda wc: truth_words(wc.dataset),
        features=lambda wc: feature_words(wc.dataset),
        seed=CFG.seed,
        root=lambda wc: RES,
        code=METRICS_CODE,
    shell:
        'python "$SCRIPTS"/score_faces.py --protocol {params.protocol:q} --frame {params.frame:q}'
        " --images {input.images:q} --status {input.status:q} {params.truth} {params.features}"
        " --resources {params.root:q}"
        " --seed {params.seed} --cell {wildcards.dataset}/{wildcards.degradation}"
        " --out-images {output.images:q} --out-sets {output.sets:q} > {log} 2>&1"
