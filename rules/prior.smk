"""How good a face prior is; asked for by name, no part of the default run:

snakemake --cores 2 results/prior/stylegan2-64/scores.csv

Needs faces/, the weights of the prior and of its encoder. Leaves prior/{prior}/scores.csv,
samples.png and inversion_{dataset}.png.
"""


rule assess_prior:
    """Samples, distance to real faces, inversion of held-out faces."""
    input:
        weights=lambda wc: PLAN.prior_weights(wc.prior),
        tables=lambda wc: [
            f"{OUT}/faces/{d}.csv" for d in PLAN.prior_datasets(wc.prior)
        ],
        folders=lambda wc: [
            folder for d in PLAN.prior_datasets(wc.prior) for folder in face_folders(d)
        ],
        assets=asset_files(PLAN.prior_assets()),
    output:
        scores=f"{OUT}/prior/{{prior}}/scores.csv",
        samples=f"{OUT}/prior/{{prior}}/samples.png",
    log:
        f"{OUT}/logs/prior/{{prior}}.log",
    wildcard_constraints:
        prior=flow.one_of(PLAN.priors()),
    conda:
        "../envs/frcore.yaml"
    threads: 2
    resources:
        gpu=lambda wc: PLAN.gpus(wc.prior),
        nodes=1,
        mem_mb=4000,
        runtime=240,
    params:
        datasets=lambda wc: " ".join(PLAN.prior_datasets(wc.prior)),
        frame=lambda wc: PLAN.frame_spec(PLAN.prior_datasets(wc.prior)[0]),
        results=lambda wc: OUT,
        root=lambda wc: RES,
        seed=CFG.seed,
        code=code_hash(
            "frcore.prior", "frcore.helpers.generator", "frcore.helpers.encoder"
        ),
    shell:
        'python "$SCRIPTS"/assess_prior.py --name {wildcards.prior} --weights {input.weights:q}'
        " --datasets {params.datasets} --frame {params.frame:q} --results {params.results:q}"
        " --resources {params.root:q} --threads {threads} --seed {params.seed}"
        " --out $(dirname {output.scores:q}) > {log} 2>&1"
