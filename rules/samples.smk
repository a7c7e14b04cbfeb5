"""How the restorations of one face differ, for a model that draws; asked for by name:

snakemake --cores 2 results/samples/rdfr_64/digiface/gfpgan_{mild,medium,strong}_64.csv

Needs faces/, degraded/ and the model's weights. Leaves samples/{model}/{dataset}/{degradation}.csv
and .png.
"""


rule assess_samples:
    """Distances between restorations of one face, and of each to the truth and to other people."""
    input:
        images=f"{OUT}/degraded/{{dataset}}/{{degradation}}",
        drawn=f"{OUT}/degraded/{{dataset}}/{{degradation}}.csv",
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
        weights=lambda wc: PLAN.weights_of(wc.model),
        assets=asset_files(PLAN.metric_assets()),
    output:
        scores=f"{OUT}/samples/{{model}}/{{dataset}}/{{degradation}}.csv",
        picture=f"{OUT}/samples/{{model}}/{{dataset}}/{{degradation}}.png",
    log:
        f"{OUT}/logs/samples/{{model}}/{{dataset}}/{{degradation}}.log",
    wildcard_constraints:
        model=flow.one_of(PLAN.stochastic_models()),
        dataset=flow.one_of(d for d in CFG.datasets if true_faces(d)),
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
        results=lambda wc: OUT,
        root=lambda wc: RES,
        code=lambda wc: (method_code(wc.model), code_hash("frcore.samples")),
    shell:
        'python "$SCRIPTS"/assess_samples.py --name {wildcards.model} --spec {params.spec:q}'
        " {params.weights} --cell {wildcards.dataset} {wildcards.degradation}"
        " --results {params.results:q} --resources {params.root:q} --out {output.scores:q}"
        " > {log} 2>&1"
