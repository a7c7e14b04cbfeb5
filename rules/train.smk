"""One weights file per trained entry of `models:`, helper nets included.

Needs faces/, parsing/, assets and the weights of helper entries and of degradation models. Leaves
models/{model}/weights.safetensors, weights.json, history.csv, samples.png. The state that makes a
run resumable is in models/{model}/state/, which is no output: Snakemake removes outputs of a job
that fails or starts, and a retry must find it. Runs with other settings keep theirs beside it.
"""


rule train_model:
    """Train one entry; a retry or a second call goes on where the first was stopped."""
    input:
        tables=lambda wc: face_tables(PLAN.trained_datasets(wc.model)),
        folders=lambda wc: training_folders(wc.model),
        weights=lambda wc: training_weights(wc.model),
        assets=lambda wc: asset_files(PLAN.training_assets(wc.model)),
    output:
        weights=f"{OUT}/models/{{model}}/weights.safetensors",
        card=f"{OUT}/models/{{model}}/weights.json",
        history=f"{OUT}/models/{{model}}/history.csv",
        samples=f"{OUT}/models/{{model}}/samples.png",
    log:
        f"{OUT}/logs/train/{{model}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{model}}.tsv"
    conda:
        ENV
    threads: lambda wc: CFG.models[wc.model].train.threads
    resources:
        **resources_of("train"),
    params:
        **job("train_model"),
        launch=lambda wc, resources: launcher(resources.get("gpu", 0)),
    shell:
        # exec: a signal must not end the shell before the training has saved
        'exec {params.launch} "$SCRIPTS"/train_model.py {params.job:q} > {log:q} 2>&1'
