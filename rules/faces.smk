"""Photographs -> aligned faces, the table of faces, the quarantine and parsing maps.

Needs the assets. Leaves faces/{dataset}/{shard}/{id}.png, faces/{dataset}.csv,
faces/{dataset}.quarantine.csv and parsing/{dataset}/{id}.png.
"""


localrules:
    join_faces,


rule align_faces:
    """Detect and align the photographs of one shard; bad ones go to the quarantine with a reason."""
    input:
        assets=lambda wc: asset_files(PLAN.dataset_assets(wc.dataset)),
    output:
        **listing(f"{OUT}/faces/{{dataset}}/{{shard}}"),
        faces=directory(f"{OUT}/faces/{{dataset}}/{{shard}}"),
    log:
        f"{OUT}/logs/align/{{dataset}}/{{shard}}.log",
    conda:
        ENV
    params:
        **job("align_faces"),
    shell:
        'python "$SCRIPTS"/align_faces.py {params.job:q} > {log:q} 2>&1'


rule join_faces:
    """One table of faces, split by person, and one quarantine."""
    input:
        unpack(shards),
    output:
        **listing(f"{OUT}/faces/{{dataset}}"),
    log:
        f"{OUT}/logs/join/{{dataset}}.log",
    conda:
        ENV
    params:
        **job("join_faces"),
    shell:
        'python "$SCRIPTS"/join_faces.py {params.job:q} > {log:q} 2>&1'


rule parse_faces:
    """Parsing maps of the truth: from landmarks, from CelebAMask-HQ, or predicted."""
    input:
        unpack(faces),
        parser=lambda wc: parser_weights(wc.dataset),
    output:
        maps=directory(f"{OUT}/parsing/{{dataset}}"),
    log:
        f"{OUT}/logs/parse/{{dataset}}.log",
    conda:
        ENV
    resources:
        gpu=lambda wc: int(bool(PLAN.label_parser(wc.dataset))),
    params:
        **job("parse_faces"),
    shell:
        'python "$SCRIPTS"/parse_faces.py {params.job:q} > {log:q} 2>&1'
