"""Photographs -> aligned faces, the table of faces, the quarantine and parsing maps.

Needs the assets. Leaves faces/{dataset}/{shard}/{id}.png, faces/{dataset}.csv,
faces/{dataset}.quarantine.csv and parsing/{dataset}/{id}.png.
"""


rule align_faces:
    """Detect and align the photographs of one shard; bad ones go to the quarantine with a reason."""
    input:
        assets=lambda wc: asset_files(PLAN.dataset_assets(wc.dataset)),
    output:
        faces=directory(f"{OUT}/faces/{{dataset}}/{{shard}}"),
        table=f"{OUT}/faces/{{dataset}}/{{shard}}.csv",
        quarantine=f"{OUT}/faces/{{dataset}}/{{shard}}.quarantine.csv",
    log:
        f"{OUT}/logs/align/{{dataset}}/{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/align/{{dataset}}/{{shard}}.tsv"
    conda:
        "../envs/frcore.yaml"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        spec=lambda wc: PLAN.dataset_spec(wc.dataset),
        listing=lambda wc: PLAN.listing(wc.dataset),
        seed=CFG.seed,
        root=lambda wc: RES,
        code=code_hash("frcore.faces.build"),
    shell:
        'python "$SCRIPTS"/align_faces.py --name {wildcards.dataset} --spec {params.spec:q}'
        " --shard {wildcards.shard} --seed {params.seed} --resources {params.root:q}"
        " --out-dir {output.faces:q} --out-csv {output.table:q}"
        " --out-quarantine {output.quarantine:q} > {log} 2>&1"


rule join_faces:
    """One table of faces, split by person, and one quarantine."""
    input:
        tables=shard_tables,
        quarantines=lambda wc: shard_tables(wc, ".quarantine.csv"),
    output:
        table=f"{OUT}/faces/{{dataset}}.csv",
        quarantine=f"{OUT}/faces/{{dataset}}.quarantine.csv",
    log:
        f"{OUT}/logs/join/{{dataset}}.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        spec=lambda wc: PLAN.dataset_spec(wc.dataset, ["split"]),
        seed=CFG.seed,
        code=code_hash("frcore.faces.build"),
    shell:
        'python "$SCRIPTS"/join_faces.py --name {wildcards.dataset} --spec {params.spec:q}'
        " --seed {params.seed} --tables {input.tables:q} --quarantines {input.quarantines:q}"
        " --out-csv {output.table:q} --out-quarantine {output.quarantine:q} > {log} 2>&1"


rule parse_faces:
    """Parsing maps of the truth: from landmarks, from CelebAMask-HQ, or predicted."""
    input:
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
        parser=lambda wc: parser_weights(wc.dataset),
    output:
        directory(f"{OUT}/parsing/{{dataset}}"),
    log:
        f"{OUT}/logs/parse/{{dataset}}.log",
    conda:
        "../envs/frcore.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
        gpu=lambda wc: int(bool(parser_weights(wc.dataset))),
    params:
        spec=lambda wc: PLAN.dataset_spec(wc.dataset, ["labels"]),
        faces=lambda wc: f"{OUT}/faces/{wc.dataset}",
        parser=lambda wc: " ".join(
            f"--parser '{path}'" for path in parser_weights(wc.dataset)
        ),
        code=code_hash("frcore.faces.build", "frcore.helpers.parsing"),
    shell:
        'python "$SCRIPTS"/parse_faces.py --spec {params.spec:q}'
        " --table {input.table:q} --faces {params.faces:q}"
        " {params.parser} --out {output:q} > {log} 2>&1"
