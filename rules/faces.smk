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
        digest=digest("align_faces"),
        job=job("align_faces"),
    shell:
        'python "$SCRIPTS"/align_faces.py {params.job:q} > {log} 2>&1'


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
        digest=digest("join_faces"),
        job=job("join_faces"),
    shell:
        'python "$SCRIPTS"/join_faces.py {params.job:q} > {log} 2>&1'


rule parse_faces:
    """Parsing maps of the truth: from landmarks, from CelebAMask-HQ, or predicted."""
    input:
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
        parser=lambda wc: parser_weights(wc.dataset),
    output:
        maps=directory(f"{OUT}/parsing/{{dataset}}"),
    log:
        f"{OUT}/logs/parse/{{dataset}}.log",
    conda:
        "../envs/frcore.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
        gpu=lambda wc: int(bool(PLAN.label_parser(wc.dataset))),
    params:
        digest=digest("parse_faces"),
        job=job("parse_faces"),
    shell:
        'python "$SCRIPTS"/parse_faces.py {params.job:q} > {log} 2>&1'
