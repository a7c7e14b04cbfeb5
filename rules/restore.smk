"""Restored faces of every selected model on every test set.

Needs degraded/ and weights. Leaves restored/{model}/{dataset}/{degradation}/{id}.png and a table
with the status of each image: a face that failed has a reason and no image.
"""


rule restore_faces:
    """One model on one test set."""
    input:
        images=f"{OUT}/degraded/{{dataset}}/{{degradation}}",
        table=f"{OUT}/degraded/{{dataset}}/{{degradation}}.csv",
        weights=lambda wc: PLAN.weights_of(wc.model),
    output:
        images=directory(f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}"),
        table=f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}.csv",
    log:
        f"{OUT}/logs/restore/{{model}}/{{dataset}}/{{degradation}}.log",
    benchmark:
        f"{OUT}/benchmarks/restore/{{model}}/{{dataset}}/{{degradation}}.tsv"
    conda:
        "../envs/frcore.yaml"
    resources:
        gpu=lambda wc: min(1, PLAN.gpus(wc.model)),
        nodes=1,
        mem_mb=4000,
        runtime=120,
    params:
        spec=lambda wc: PLAN.model_spec(wc.model),
        weights=lambda wc: " ".join(
            f"--weights {name}='{path}'" for name, path in named_weights(wc.model)
        ),
        code=lambda wc: method_code(wc.model),
    shell:
        'python "$SCRIPTS"/restore_faces.py --name {wildcards.model} --spec {params.spec:q}'
        " {params.weights} --images {input.images:q} --table {input.table:q}"
        " --out-dir {output.images:q} --out-csv {output.table:q} > {log} 2>&1"
