"""Restored faces of every selected model on every test set.

Needs degraded/ and weights. Leaves restored/{model}/{dataset}/{degradation}/{id}.png and a table
with the status of each image: a face that failed has a reason and no image. A model with
`restore: {shards: N}` shares each test set out among N jobs.
"""


rule restore_faces:
    """One model on one test set."""
    input:
        images=f"{OUT}/degraded/{{dataset}}/{{degradation}}",
        table=f"{OUT}/degraded/{{dataset}}/{{degradation}}.csv",
        weights=lambda wc: PLAN.made(PLAN.weights_of(wc.model)),
        assets=lambda wc: asset_files(PLAN.restoring_assets(wc.model)),
        truth=lambda wc: reference_faces(wc.model, wc.dataset),
    output:
        images=directory(f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}"),
        table=f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}.csv",
    log:
        f"{OUT}/logs/restore/{{model}}/{{dataset}}/{{degradation}}.log",
    benchmark:
        f"{OUT}/benchmarks/restore/{{model}}/{{dataset}}/{{degradation}}.tsv"
    wildcard_constraints:
        model=flow.one_of(m for m in CFG.models if len(PLAN.parts(m)) == 1),
    conda:
        "../envs/frcore.yaml"
    threads: lambda wc: CFG.models[wc.model].restore.threads
    resources:
        gpu=lambda wc: PLAN.restore_gpus(wc.model),
        nodes=1,
        mem_mb=lambda wc: CFG.models[wc.model].restore.memory_mb,
        runtime=lambda wc: CFG.models[wc.model].restore.minutes,
    params:
        digest=digest("restore_faces"),
        job=job("restore_faces"),
    shell:
        'python "$SCRIPTS"/restore_faces.py {params.job:q} > {log} 2>&1'


rule restore_part:
    """A share of one test set."""
    input:
        images=f"{OUT}/degraded/{{dataset}}/{{degradation}}",
        table=f"{OUT}/degraded/{{dataset}}/{{degradation}}.csv",
        weights=lambda wc: PLAN.made(PLAN.weights_of(wc.model)),
        assets=lambda wc: asset_files(PLAN.restoring_assets(wc.model)),
        truth=lambda wc: reference_faces(wc.model, wc.dataset),
    output:
        images=directory(
            f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}.parts/{{part}}"
        ),
        table=f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}.parts/{{part}}.csv",
    log:
        f"{OUT}/logs/restore/{{model}}/{{dataset}}/{{degradation}}/{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/restore/{{model}}/{{dataset}}/{{degradation}}/{{part}}.tsv"
    conda:
        "../envs/frcore.yaml"
    threads: lambda wc: CFG.models[wc.model].restore.threads
    resources:
        gpu=lambda wc: PLAN.restore_gpus(wc.model),
        nodes=1,
        mem_mb=lambda wc: CFG.models[wc.model].restore.memory_mb,
        runtime=lambda wc: CFG.models[wc.model].restore.minutes,
    params:
        digest=digest("restore_part"),
        job=job("restore_part"),
    shell:
        'python "$SCRIPTS"/restore_part.py {params.job:q} > {log} 2>&1'


rule join_parts:
    """The shares of one test set, joined."""
    input:
        images=lambda wc: restored_parts(wc, ""),
        tables=lambda wc: restored_parts(wc, ".csv"),
    output:
        images=directory(f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}"),
        table=f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}.csv",
    log:
        f"{OUT}/logs/join_parts/{{model}}/{{dataset}}/{{degradation}}.log",
    wildcard_constraints:
        model=flow.one_of(m for m in CFG.models if len(PLAN.parts(m)) > 1),
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("join_parts"),
        job=job("join_parts"),
    shell:
        'python "$SCRIPTS"/join_parts.py {params.job:q} > {log} 2>&1'
