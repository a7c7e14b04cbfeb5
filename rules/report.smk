"""The long table, tables for print, figures, and one page that holds them all.

Needs scores/, restored/, models/ and faces/. Leaves tables/, figures/ and report.html.
"""


rule join_scores:
    """Every measured and every chosen published number, one a row."""
    input:
        scores=cells(f"{OUT}/scores/{{model}}/{{dataset}}/{{degradation}}.csv"),
        sets=cells(f"{OUT}/scores/{{model}}/{{dataset}}/{{degradation}}.sets.csv"),
        restored=cells(f"{OUT}/restored/{{model}}/{{dataset}}/{{degradation}}.csv"),
        cards=[f"{OUT}/models/{name}/weights.json" for name in PLAN.trained_models()],
    output:
        table=report(
            f"{OUT}/tables/scores.csv",
            caption="captions/scores.rst",
            category="Tables",
        ),
    log:
        f"{OUT}/logs/report/join_scores.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("join_scores"),
        job=job("join_scores"),
    shell:
        'python "$SCRIPTS"/join_scores.py {params.job:q} > {log} 2>&1'


rule comparison:
    """The table for print: CSV, Markdown and LaTeX."""
    input:
        scores=f"{OUT}/tables/scores.csv",
    output:
        csv=f"{OUT}/tables/comparison.csv",
        md=report(
            f"{OUT}/tables/comparison.md",
            caption="captions/comparison.rst",
            category="Tables",
        ),
        tex=f"{OUT}/tables/comparison.tex",
    log:
        f"{OUT}/logs/report/comparison.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("comparison"),
        job=job("comparison"),
    shell:
        'python "$SCRIPTS"/comparison.py {params.job:q} > {log} 2>&1'


rule plot_scores:
    """A figure a metric: every model on every test set, with confidence intervals."""
    input:
        scores=f"{OUT}/tables/scores.csv",
    output:
        png=report(
            expand(
                f"{OUT}/figures/scores/{{metric}}.png", metric=PLAN.protocol.metrics
            ),
            caption="captions/plot_scores.rst",
            category="Figures",
        ),
        svg=expand(f"{OUT}/figures/scores/{{metric}}.svg", metric=PLAN.protocol.metrics),
    log:
        f"{OUT}/logs/report/plot_scores.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("plot_scores"),
        job=job("plot_scores"),
    shell:
        'python "$SCRIPTS"/plot_scores.py {params.job:q} > {log} 2>&1'


rule plot_training:
    """Losses of every model that was trained in this run."""
    input:
        histories=[f"{OUT}/models/{name}/history.csv" for name in PLAN.trained_models()],
    output:
        picture=report(
            f"{OUT}/figures/training.png",
            caption="captions/plot_training.rst",
            category="Figures",
        ),
    log:
        f"{OUT}/logs/report/plot_training.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("plot_training"),
        job=job("plot_training"),
    shell:
        'python "$SCRIPTS"/plot_training.py {params.job:q} > {log} 2>&1'


rule panel:
    """Degraded, restored by each model, and true faces side by side, always the same faces."""
    input:
        restored=lambda wc: [
            f"{OUT}/restored/{m}/{wc.dataset}/{wc.degradation}" for m in CFG.run.models
        ],
        degraded=f"{OUT}/degraded/{{dataset}}/{{degradation}}",
        drawn=f"{OUT}/degraded/{{dataset}}/{{degradation}}.csv",
        truth=lambda wc: true_faces(wc.dataset),
    output:
        picture=report(
            f"{OUT}/figures/panels/{{dataset}}/{{degradation}}.png",
            caption="captions/panel.rst",
            category="Panels",
            labels={"dataset": "{dataset}", "degradation": "{degradation}"},
        ),
    log:
        f"{OUT}/logs/report/panel_{{dataset}}_{{degradation}}.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("panel"),
        job=job("panel"),
    shell:
        'python "$SCRIPTS"/panel.py {params.job:q} > {log} 2>&1'


rule panel_of_strengths:
    """An entry of `figures:`: faces under several degradations, restored by its models."""
    input:
        restored=lambda wc: figure_cells(wc.figure, f"{OUT}/restored/{{m}}/{{d}}/{{g}}"),
        degraded=lambda wc: figure_cells(wc.figure, f"{OUT}/degraded/{{d}}/{{g}}"),
        drawn=lambda wc: figure_cells(wc.figure, f"{OUT}/degraded/{{d}}/{{g}}.csv"),
        truth=lambda wc: true_faces(CFG.figures[wc.figure].dataset),
    output:
        picture=report(
            f"{OUT}/figures/strengths/{{figure}}.png",
            caption="captions/panel_of_strengths.rst",
            category="Panels",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{OUT}/logs/report/strengths_{{figure}}.log",
    wildcard_constraints:
        figure=flow.one_of(CFG.figures),
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("panel_of_strengths"),
        job=job("panel_of_strengths"),
    shell:
        'python "$SCRIPTS"/panel_of_strengths.py {params.job:q} > {log} 2>&1'


rule report_page:
    """One self-contained page: what was run, how it was measured, and what came out."""
    input:
        tables=TABLES,
        licences=f"{OUT}/tables/licences.md",
        training=f"{OUT}/figures/training.png" if PLAN.trained_models() else [],
        scores=[
            f"{OUT}/figures/scores/{metric}.png" for metric in PLAN.protocol.metrics
        ],
        cards=[f"{OUT}/models/{name}/weights.json" for name in PLAN.trained_models()],
        samples=[f"{OUT}/models/{name}/samples.png" for name in PLAN.trained_models()],
        faces=face_tables(CFG.run.datasets),
        quarantines=[f"{OUT}/faces/{name}.quarantine.csv" for name in CFG.run.datasets],
        panels=[f"{OUT}/figures/panels/{d}/{g}.png" for d, g in CFG.test_sets()],
        strengths=[f"{OUT}/figures/strengths/{name}.png" for name in CFG.run.figures],
        sheets=contact_sheets(),
    output:
        page=REPORT,
    log:
        f"{OUT}/logs/report/page.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        digest=digest("report_page"),
        job=job("report_page"),
    shell:
        'python "$SCRIPTS"/report_page.py {params.job:q} > {log} 2>&1'
