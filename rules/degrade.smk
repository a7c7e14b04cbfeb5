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
        recipe=lambda wc: PLAN.recipe_spec(wc.degradation),
        limit=lambda wc: CFG.datasets[wc.dataset].test_limit or 0,
        faces=lambda wc: f"{OUT}/faces/{wc.dataset}",
        seed=CFG.seed,
        code=code_hash("frcore.degrade"),
    shell:
        'python "$SCRIPTS"/degrade_faces.py --dataset {wildcards.dataset}'
        " --degradation {wildcards.degradation} --recipe {params.recipe:q} --seed {params.seed}"
        " --limit {params.limit} --table {input.table:q} --faces {params.faces:q}"
        " --out-dir {output.images:q} --out-csv {output.table:q} > {log} 2>&1"


rule contact_sheet:
    """What one preset does to some faces: a picture to look at before measuring anything."""
    input:
        table=f"{OUT}/faces/{{dataset}}.csv",
        folders=lambda wc: face_folders(wc.dataset),
    output:
        f"{OUT}/figures/degradations/{{dataset}}/{{degradation}}.png",
    log:
        f"{OUT}/logs/contact_sheet/{{dataset}}/{{degradation}}.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        recipe=lambda wc: PLAN.recipe_spec(wc.degradation),
        faces=lambda wc: f"{OUT}/faces/{wc.dataset}",
        seed=CFG.seed,
        code=code_hash("frcore.degrade"),
    shell:
        'python "$SCRIPTS"/contact_sheet.py --degradation {wildcards.degradation}'
        " --recipe {params.recipe:q} --seed {params.seed} --table {input.table:q}"
        " --faces {params.faces:q} --out {output:q} > {log} 2>&1"
