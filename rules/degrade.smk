"""Low-quality copies of the test faces, with the drawn parameters recorded per image.

Needs faces/. Leaves degraded/{dataset}/{degradation}/{id}.png, its table, and contact sheets. One
job makes all test sets of a dataset that the run selects; others are made one by one. A set that is
made of the same as before is taken from kept/, which is no output.
"""


localrules:
    contact_sheet,


rule degrade_faces:
    """One test set; regenerating it gives the same bytes."""
    input:
        unpack(faces),
    output:
        **image_set(DEGRADED),
    log:
        f"{OUT}/logs/degrade/{{dataset}}/{{degradation}}.log",
    conda:
        ENV
    params:
        **job("degrade_faces"),
    shell:
        'python "$SCRIPTS"/degrade_faces.py {params.job:q} > {log:q} 2>&1'


for d, found in PLAN.tests_of().items():

    rule:
        name:
            f"degrade_{d}"
        input:
            **faces_of(d),
        output:
            **image_sets(DEGRADED, dataset=d, degradation=found),
        log:
            f"{OUT}/logs/degrade/{d}.log",
        conda:
            ENV
        params:
            **job("degrade_faces", dataset=d, degradation=found),
        shell:
            'python "$SCRIPTS"/degrade_faces.py {params.job:q} > {log:q} 2>&1'


rule contact_sheet:
    """What one preset does to some faces: a picture to look at before measuring anything."""
    input:
        unpack(faces),
    output:
        picture=f"{OUT}/figures/degradations/{{dataset}}/{{degradation}}.png",
    log:
        f"{OUT}/logs/contact_sheet/{{dataset}}/{{degradation}}.log",
    conda:
        ENV
    params:
        **job("contact_sheet"),
    shell:
        'python "$SCRIPTS"/contact_sheet.py {params.job:q} > {log:q} 2>&1'


if contact_sheets():

    rule:
        name:
            "contact_sheets"
        input:
            table=face_tables(CFG.first_shown().values()),
            folders=face_folders(*dict.fromkeys(CFG.first_shown().values())),
        output:
            picture=contact_sheets(),
        log:
            f"{OUT}/logs/contact_sheets.log",
        localrule: True
        conda:
            ENV
        params:
            **job("contact_sheet", **shown_sets()),
        shell:
            'python "$SCRIPTS"/contact_sheet.py {params.job:q} > {log:q} 2>&1'
