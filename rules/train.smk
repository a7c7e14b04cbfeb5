"""One weights file per trained entry of `models:`, helper nets included.

Needs faces/, parsing/, assets and the weights of helper entries and of degradation models. Leaves
models/{model}/weights.safetensors, weights.json, history.csv, samples.png. The state that makes a
run resumable is in models/{model}/state/, which is no output: Snakemake removes outputs of a job
that fails or starts, and a retry must find it.
"""


rule train_model:
    """Train one entry; a retry or a second call goes on where the first was stopped."""
    input:
        tables=lambda wc: [
            f"{OUT}/faces/{d}.csv" for d in PLAN.trained_datasets(wc.model)
        ],
        folders=lambda wc: training_folders(wc.model),
        helpers=lambda wc: [path for _, path in helper_paths(wc.model)],
        degraders=lambda wc: [path for _, path in degrader_paths(wc.model)],
        assets=lambda wc: asset_files(PLAN.training_assets(wc.model)),
        start=lambda wc: PLAN.shipped_weights(wc.model),
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
        "../envs/frcore.yaml"
    threads: lambda wc: CFG.models[wc.model].train.threads
    resources:
        gpu=lambda wc: PLAN.gpus(wc.model),
        nodes=1,
        mem_mb=lambda wc: CFG.models[wc.model].train.memory_mb,
        runtime=lambda wc: CFG.models[wc.model].train.minutes,
        # no resources, but what may change without training again
        save_images=lambda wc: CFG.models[wc.model].train.save_images,
        sample_images=lambda wc: CFG.models[wc.model].train.sample_images,
    params:
        spec=lambda wc: PLAN.training_spec(wc.model),
        launch=lambda wc, resources: flow.launcher(resources.get("gpu", 0)),
        state=f"{OUT}/models/{{model}}/state",
        results=lambda wc: OUT,
        root=lambda wc: RES,
        helpers=lambda wc: " ".join(
            [f"--helper {r}='{p}'" for r, p in helper_paths(wc.model)]
            + [f"--degrader {n}='{p}'" for n, p in degrader_paths(wc.model)]
        ),
        assets=lambda wc: " ".join(
            f"--asset {name}='{PLAN.asset_path(name)}'"
            for name in PLAN.training_assets(wc.model)
        ),
    shell:
        # exec: a signal must not end the shell before the training has saved
        'exec {params.launch} "$SCRIPTS"/train_model.py --name {wildcards.model} --spec {params.spec:q}'
        " --results {params.results:q} {params.helpers} {params.assets} --threads {threads}"
        " --save-images {resources.save_images} --sample-images {resources.sample_images}"
        " --state {params.state:q} --out $(dirname {output.weights:q}) > {log} 2>&1"
