"""Low-quality copies of the test faces, with the drawn parameters recorded per image.

Needs faces/. Leaves degraded/{dataset}/{degradation}/{id}.png, its table, and contact sheets.
"""


rule degrade_faces:
    """One test set; regenerating it gives the same bytes."""
    input:
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
    output:
        images=directory(f"{OUT}/degraded/{{dataset}}/{{degradation}}"),
        table=f"{OUT}/degraded/{{dataset}}/{{degradation}}.csv",
    log:
        f"{OUT}/logs/degrade/{{dataset}}/{{degradation}}.log",
    benchmark:
        f"{OUT}/benchmarks/degrade/{{dataset}}/{{degradation}}.tsv"
    conda:
        "../envs/frcore.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        digest=digest("degrade_faces"),
        job=job("degrade_faces"),
    shell:
        'python "$SCRIPTS"/degrade_faces.py {params.job:q} > {log} 2>&1'


rule contact_sheet:
    """What one preset does to some faces: a picture to look at before measuring anything."""
    input:
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
    output:
        picture=f"{OUT}/figures/degradations/{{dataset}}/{{degradation}}.png",
    log:
        f"{OUT}/logs/contact_sheet/{{dataset}}/{{degradation}}.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("contact_sheet"),
        job=job("contact_sheet"),
    shell:
        'python "$SCRIPTS"/contact_sheet.py {params.job:q} > {log} 2>&1'
