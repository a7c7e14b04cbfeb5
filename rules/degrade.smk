"""Low-quality copies of the test faces, with the drawn parameters recorded per image.

Needs faces/. Leaves degraded/{dataset}/{degradation}/{id}.png, its table, and contact sheets.
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
        'python "$SCRIPTS"/degrade_faces.py {params.job:q} > {log} 2>&1'


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
        'python "$SCRIPTS"/contact_sheet.py {params.job:q} > {log} 2>&1'
