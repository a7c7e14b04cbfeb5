"""Scores of every restored set, per image and per set.

Needs restored/, faces/ and the metrics' nets. Leaves truth/{dataset}.npz (features of the truth,
computed once) and scores/{model}/{dataset}/{degradation}.csv and .sets.csv.
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
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
        truth=f"{OUT}/truth/{{dataset}}.npz",
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
        faces=lambda wc: f"{OUT}/faces/{wc.dataset}",
        seed=CFG.seed,
        root=lambda wc: RES,
        code=METRICS_CODE,
    shell:
        'python "$SCRIPTS"/score_faces.py --protocol {params.protocol:q} --frame {params.frame:q}'
        " --images {input.images:q} --status {input.status:q} --table {input.table:q}"
        " --faces {params.faces:q} --truth {input.truth:q} --resources {params.root:q}"
        " --seed {params.seed} --cell {wildcards.dataset}/{wildcards.degradation}"
        " --out-images {output.images:q} --out-sets {output.sets:q} > {log} 2>&1"
