"""The long table, tables for print, figures, and one page that holds them all.

Needs scores/, restored/, models/ and faces/. Leaves tables/, figures/ and report.html. One job makes
all panels of a run; others are made one by one.
"""


localrules:
    join_scores,
    comparison,
    plot_scores,
    plot_training,
    panel,
    panel_of_strengths,
    report_page,


rule join_scores:
    """Every measured and every chosen published number, one a row."""
    input:
        unpack(score_tables),
        cards=model_files(PLAN.trained_models()),
    output:
        table=shown("tables/scores.csv", "scores", "Tables"),
    log:
        f"{OUT}/logs/report/join_scores.log",
    conda:
        ENV
    params:
        **job("join_scores"),
    shell:
        'python "$SCRIPTS"/join_scores.py {params.job:q} > {log:q} 2>&1'


rule comparison:
    """The table for print: CSV, Markdown and LaTeX."""
    input:
        scores=f"{OUT}/tables/scores.csv",
    output:
        **comparison_tables(),
    log:
        f"{OUT}/logs/report/comparison.log",
    conda:
        ENV
    params:
        **job("comparison"),
    shell:
        'python "$SCRIPTS"/comparison.py {params.job:q} > {log:q} 2>&1'


rule plot_scores:
    """A figure a metric: every model on every test set, with confidence intervals."""
    input:
        scores=f"{OUT}/tables/scores.csv",
    output:
        **score_figures(),
    log:
        f"{OUT}/logs/report/plot_scores.log",
    conda:
        ENV
    params:
        **job("plot_scores"),
    shell:
        'python "$SCRIPTS"/plot_scores.py {params.job:q} > {log:q} 2>&1'


rule plot_training:
    """Losses of every model that was trained in this run."""
    input:
        histories=model_files(PLAN.trained_models(), "history.csv"),
    output:
        picture=shown("figures/training.png", "plot_training", "Figures"),
    log:
        f"{OUT}/logs/report/plot_training.log",
    conda:
        ENV
    params:
        **job("plot_training"),
    shell:
        'python "$SCRIPTS"/plot_training.py {params.job:q} > {log:q} 2>&1'


rule panel:
    """Degraded, restored by each model, and true faces side by side, always the same faces."""
    input:
        restored=lambda wc: restored_of_run(wc.dataset, wc.degradation),
        degraded=DEGRADED,
        drawn=f"{DEGRADED}.csv",
        truth=lambda wc: true_faces(wc.dataset),
    output:
        picture=panel_picture("{dataset}", "{degradation}"),
    log:
        f"{OUT}/logs/report/panel_{{dataset}}_{{degradation}}.log",
    conda:
        ENV
    params:
        **job("panel"),
    shell:
        'python "$SCRIPTS"/panel.py {params.job:q} > {log:q} 2>&1'


rule:
    name:
        "panels"
    input:
        restored=[x for d, g in CFG.test_sets() for x in restored_of_run(d, g)],
        degraded=[DEGRADED.format(dataset=d, degradation=g) for d, g in CFG.test_sets()],
        drawn=[f"{OUT}/degraded/{d}/{g}.csv" for d, g in CFG.test_sets()],
        truth=[file for d in CFG.run.datasets for file in true_faces(d)],
    output:
        picture=[panel_picture(d, g) for d, g in CFG.test_sets()],
    log:
        f"{OUT}/logs/report/panels.log",
    localrule: True
    conda:
        ENV
    params:
        **job("panel", **all_panels()),
    shell:
        'python "$SCRIPTS"/panel.py {params.job:q} > {log:q} 2>&1'


rule panel_of_strengths:
    """An entry of `figures:`: faces under several degradations, restored by its models."""
    input:
        restored=lambda wc: figure_cells(wc.figure, RESTORED),
        degraded=lambda wc: figure_cells(wc.figure, DEGRADED),
        drawn=lambda wc: figure_cells(wc.figure, f"{DEGRADED}.csv"),
        truth=lambda wc: true_faces(CFG.figures[wc.figure].dataset),
    output:
        picture=shown(
            "figures/strengths/{figure}.png",
            "panel_of_strengths",
            "Panels",
            figure="{figure}",
        ),
    log:
        f"{OUT}/logs/report/strengths_{{figure}}.log",
    conda:
        ENV
    params:
        **job("panel_of_strengths"),
    shell:
        'python "$SCRIPTS"/panel_of_strengths.py {params.job:q} > {log:q} 2>&1'


rule report_page:
    """One self-contained page: what was run, how it was measured, and what came out."""
    input:
        tables=TABLES,
        licences=f"{OUT}/tables/licences.md",
        training=f"{OUT}/figures/training.png" if PLAN.trained_models() else [],
        scores=[
            f"{OUT}/figures/scores/{metric}.png" for metric in PLAN.protocol.metrics
        ],
        cards=model_files(PLAN.trained_models()),
        samples=model_files(PLAN.trained_models(), "samples.png"),
        faces=face_tables(CFG.run.datasets),
        quarantines=[f"{OUT}/faces/{name}.quarantine.csv" for name in CFG.run.datasets],
        panels=[f"{OUT}/figures/panels/{d}/{g}.png" for d, g in CFG.test_sets()],
        strengths=[f"{OUT}/figures/strengths/{name}.png" for name in CFG.run.figures],
        sheets=contact_sheets(),
    output:
        page=REPORT,
    log:
        f"{OUT}/logs/report/page.log",
    conda:
        ENV
    params:
        **job("report_page"),
    shell:
        'python "$SCRIPTS"/report_page.py {params.job:q} > {log:q} 2>&1'
