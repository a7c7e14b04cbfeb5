"""How the restorations of one face differ, for a model that draws; asked for by name:

snakemake --cores 2 results/samples/rdfr_64/digiface/gfpgan_{mild,medium,strong}_64.csv

Needs faces/, degraded/ and the model's weights. Leaves samples/{model}/{dataset}/{degradation}.csv
and .png.
"""


rule assess_samples:
    """Distances between restorations of one face, and of each to the truth and to other people."""
    input:
        unpack(faces),
        images=DEGRADED,
        drawn=f"{DEGRADED}.csv",
        weights=lambda wc: PLAN.made(PLAN.weights_of(wc.model)),
        assets=lambda wc: asset_files(PLAN.sample_assets(wc.model)),
    output:
        scores=f"{OUT}/samples/{{model}}/{{dataset}}/{{degradation}}.csv",
        picture=f"{OUT}/samples/{{model}}/{{dataset}}/{{degradation}}.png",
    log:
        f"{OUT}/logs/samples/{{model}}/{{dataset}}/{{degradation}}.log",
    wildcard_constraints:
        model=one_of(PLAN.stochastic_models()),
        dataset=one_of(d for d in CFG.datasets if true_faces(d)),
    conda:
        ENV
    threads: lambda wc: CFG.models[wc.model].restore.threads
    resources:
        **resources_of("restore"),
    params:
        **job("assess_samples"),
    shell:
        'python "$SCRIPTS"/assess_samples.py {params.job:q} > {log:q} 2>&1'
