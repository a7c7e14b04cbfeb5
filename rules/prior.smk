"""How good a face prior is; asked for by name, no part of the default run:

snakemake --cores 2 results/prior/stylegan2-64/scores.csv

Needs faces/, the weights of the prior and of its encoder. Leaves prior/{prior}/scores.csv,
samples.png and inversion_{dataset}.png.
"""


rule assess_prior:
    """Samples, distance to real faces, inversion of held-out faces."""
    input:
        weights=lambda wc: PLAN.made(PLAN.prior_weights(wc.prior)),
        tables=lambda wc: face_tables(PLAN.prior_datasets(wc.prior)),
        folders=lambda wc: face_folders(*PLAN.prior_datasets(wc.prior)),
        assets=asset_files(PLAN.prior_assets()),
    output:
        scores=f"{OUT}/prior/{{prior}}/scores.csv",
        samples=f"{OUT}/prior/{{prior}}/samples.png",
    log:
        f"{OUT}/logs/prior/{{prior}}.log",
    conda:
        ENV
    threads: 2
    resources:
        gpu=lambda wc: PLAN.gpus(wc.prior),
    params:
        **job("assess_prior"),
    shell:
        'python "$SCRIPTS"/assess_prior.py {params.job:q} > {log:q} 2>&1'
