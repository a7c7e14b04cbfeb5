"""Restored faces of every selected model on every test set.

Needs degraded/ and weights. Leaves restored/{model}/{dataset}/{degradation}/{id}.png and a table
with the status of each image: a face that failed has a reason and no image. One job restores all
test sets of a dataset that the run selects; a model with `restore: {together: false}` has a job a
test set, one with `restore: {shards: N}` shares each test set out among N. A set that is made of
the same as before is taken from kept/, which is no output.
"""


localrules:
    join_parts,


rule restore_faces:
    """One model on one test set."""
    input:
        images=DEGRADED,
        table=f"{DEGRADED}.csv",
        weights=lambda wc: PLAN.made(PLAN.weights_of(wc.model)),
        assets=lambda wc: asset_files(PLAN.restoring_assets(wc.model)),
        truth=lambda wc: reference_faces(wc.model, wc.dataset),
    output:
        **image_set(RESTORED),
    log:
        f"{OUT}/logs/restore/{{model}}/{{dataset}}/{{degradation}}.log",
    benchmark:
        f"{OUT}/benchmarks/restore/{{model}}/{{dataset}}/{{degradation}}.tsv"
    wildcard_constraints:
        model=one_of(m for m in CFG.models if len(PLAN.parts(m)) == 1),
    conda:
        ENV
    threads: lambda wc: CFG.models[wc.model].restore.threads
    resources:
        **resources_of("restore"),
    params:
        **job("restore_faces"),
    shell:
        'python "$SCRIPTS"/restore_faces.py {params.job:q} > {log:q} 2>&1'


for m, d, found in PLAN.restored_together():

    rule:
        name:
            f"restore_{m}_{d}"
        input:
            **inputs_of_restoring(m, d, found),
        output:
            **image_sets(RESTORED, model=m, dataset=d, degradation=found),
        log:
            f"{OUT}/logs/restore/{m}/{d}.log",
        benchmark:
            f"{OUT}/benchmarks/restore/{m}/{d}.tsv"
        conda:
            ENV
        threads: CFG.models[m].restore.threads
        resources:
            **resources_for("restore", m),
        params:
            **job("restore_faces", model=m, dataset=d, degradation=found),
        shell:
            'python "$SCRIPTS"/restore_faces.py {params.job:q} > {log:q} 2>&1'


rule restore_part:
    """A share of one test set."""
    input:
        images=DEGRADED,
        table=f"{DEGRADED}.csv",
        weights=lambda wc: PLAN.made(PLAN.weights_of(wc.model)),
        assets=lambda wc: asset_files(PLAN.restoring_assets(wc.model)),
        truth=lambda wc: reference_faces(wc.model, wc.dataset),
    output:
        **image_set(f"{RESTORED}.parts/{{part}}"),
    log:
        f"{OUT}/logs/restore/{{model}}/{{dataset}}/{{degradation}}/{{part}}.log",
    conda:
        ENV
    threads: lambda wc: CFG.models[wc.model].restore.threads
    resources:
        **resources_of("restore"),
    params:
        **job("restore_part"),
    shell:
        'python "$SCRIPTS"/restore_part.py {params.job:q} > {log:q} 2>&1'


rule join_parts:
    """The shares of one test set, joined."""
    input:
        unpack(restored_parts),
    output:
        **image_set(RESTORED),
    log:
        f"{OUT}/logs/join_parts/{{model}}/{{dataset}}/{{degradation}}.log",
    wildcard_constraints:
        model=one_of(m for m in CFG.models if len(PLAN.parts(m)) > 1),
    conda:
        ENV
    params:
        **job("join_parts"),
    shell:
        'python "$SCRIPTS"/join_parts.py {params.job:q} > {log:q} 2>&1'
