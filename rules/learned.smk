"""What a learned degradation did; asked for by name, no part of the default run:

snakemake --cores 2 results/degradation/dl_64/scores.csv

Needs faces/ and the weights of the degradation model. Leaves degradation/{degrader}/scores.csv,
pairs.png and degradation.png.
"""


rule assess_degradation:
    """Pairs beside the low-quality faces they were learnt from, and beside the run's recipes."""
    input:
        weights=lambda wc: PLAN.made([PLAN.weights_path(wc.degrader)]),
        tables=lambda wc: face_tables(PLAN.trained_datasets(wc.degrader)),
        folders=lambda wc: face_folders(*PLAN.trained_datasets(wc.degrader)),
        assets=asset_files(["dlib_resnet", "mobilenet_v2"]),
    output:
        scores=f"{OUT}/degradation/{{degrader}}/scores.csv",
        pairs=f"{OUT}/degradation/{{degrader}}/pairs.png",
        figure=f"{OUT}/degradation/{{degrader}}/degradation.png",
    log:
        f"{OUT}/logs/degradation/{{degrader}}.log",
    conda:
        ENV
    threads: 2
    resources:
        gpu=lambda wc: min(1, PLAN.gpus(wc.degrader)),
    params:
        **job("assess_degradation"),
    shell:
        'python "$SCRIPTS"/assess_degradation.py {params.job:q} > {log:q} 2>&1'
