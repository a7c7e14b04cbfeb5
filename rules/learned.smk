"""What a learned degradation did; asked for by name, no part of the default run:

snakemake --cores 2 results/degradation/dl_64/scores.csv

Needs faces/ and the weights of the degradation model. Leaves degradation/{degrader}/scores.csv,
pairs.png and degradation.png.
"""


rule assess_degradation:
    """Pairs beside the low-quality faces they were learnt from, and beside the run's recipes."""
    input:
        weights=lambda wc: PLAN.weights_path(wc.degrader),
        tables=lambda wc: [
            f"{OUT}/faces/{d}.csv" for d in PLAN.trained_datasets(wc.degrader)
        ],
        folders=lambda wc: [
            folder
            for d in PLAN.trained_datasets(wc.degrader)
            for folder in face_folders(d)
        ],
        assets=asset_files(["dlib_resnet", "mobilenet_v2"]),
    output:
        scores=f"{OUT}/degradation/{{degrader}}/scores.csv",
        pairs=f"{OUT}/degradation/{{degrader}}/pairs.png",
        figure=f"{OUT}/degradation/{{degrader}}/degradation.png",
    log:
        f"{OUT}/logs/degradation/{{degrader}}.log",
    wildcard_constraints:
        degrader=flow.one_of(PLAN.degraders()),
    conda:
        "../envs/frcore.yaml"
    threads: 2
    resources:
        gpu=lambda wc: min(1, PLAN.gpus(wc.degrader)),
        nodes=1,
        mem_mb=4000,
        runtime=60,
    params:
        spec=lambda wc: PLAN.training_spec(wc.degrader),
        recipes=lambda wc: PLAN.run_recipes(wc.degrader),
        results=lambda wc: OUT,
        root=lambda wc: RES,
        seed=CFG.seed,
        code=code_hash("frcore.learned", "frcore.helpers.degradation"),
    shell:
        'python "$SCRIPTS"/assess_degradation.py --name {wildcards.degrader}'
        " --weights {input.weights:q} --spec {params.spec:q} --recipes {params.recipes:q}"
        " --results {params.results:q} --resources {params.root:q} --threads {threads}"
        " --seed {params.seed} --out $(dirname {output.scores:q}) > {log} 2>&1"
