"""The long table, tables for print, figures, and one page that holds them all.

Needs scores/, restored/, models/ and faces/. Leaves tables/, figures/ and report.html.
"""


rule join_scores:
    """Every measured and every chosen published number, one a row."""
    input:
        cells(f"{OUT}/scores/{{model}}/{{dataset}}/{{degradation}}.csv"),
        cells(f"{OUT}/scores/{{model}}/{{dataset}}/{{degradation}}.sets.csv"),
        cards=[f"{OUT}/models/{name}/weights.json" for name in PLAN.trained_models()],
        published=ROOT / "protocols" / "published.csv",
    output:
        report(
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
        config=flow.config_spec(PLAN),
        code=code_hash("frcore.report.stage"),
    shell:
        'python "$SCRIPTS"/join_scores.py --config {params.config:q} --out {output:q} > {log} 2>&1'


rule comparison:
    """The table for print: CSV, Markdown and LaTeX."""
    input:
        f"{OUT}/tables/scores.csv",
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
        titles=flow.titles(PLAN),
        code=code_hash("frcore.report.table"),
    shell:
        'python "$SCRIPTS"/make_table.py --scores {input:q} --titles {params.titles:q}'
        " --out-csv {output.csv:q} --out-md {output.md:q} --out-tex {output.tex:q} > {log} 2>&1"


rule plot_scores:
    """A figure a metric: every model on every test set, with confidence intervals."""
    input:
        f"{OUT}/tables/scores.csv",
    output:
        report(
            expand(
                f"{OUT}/figures/scores/{{metric}}.png", metric=PLAN.protocol.metrics
            ),
            caption="captions/plot_scores.rst",
            category="Figures",
        ),
        expand(f"{OUT}/figures/scores/{{metric}}.svg", metric=PLAN.protocol.metrics),
    log:
        f"{OUT}/logs/report/plot_scores.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        metrics=PLAN.protocol.metrics,
        folder=lambda wc: f"{OUT}/figures/scores",
        titles=flow.titles(PLAN),
        code=code_hash("frcore.report.figures"),
    shell:
        'python "$SCRIPTS"/plot_scores.py --scores {input:q} --metrics {params.metrics:q}'
        " --titles {params.titles:q} --out {params.folder:q} > {log} 2>&1"


rule plot_training:
    """Losses of every model that was trained in this run."""
    input:
        [f"{OUT}/models/{name}/history.csv" for name in PLAN.trained_models()],
    output:
        report(
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
        titles=flow.titles(PLAN),
        code=code_hash("frcore.report.figures"),
    shell:
        'python "$SCRIPTS"/plot_training.py --histories {input:q} --titles {params.titles:q}'
        " --out {output:q} > {log} 2>&1"


rule panel:
    """Degraded, restored by each model, and true faces side by side, always the same faces."""
    input:
        restored=lambda wc: [
            f"{OUT}/restored/{model}/{wc.dataset}/{wc.degradation}"
            for model in CFG.run.models
        ],
        degraded=f"{OUT}/degraded/{{dataset}}/{{degradation}}",
        drawn=f"{OUT}/degraded/{{dataset}}/{{degradation}}.csv",
        truth=lambda wc: true_faces(wc.dataset),
    output:
        report(
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
        titles=flow.titles(PLAN),
        truth=lambda wc: truth_words(wc.dataset),
        n=CFG.run.panel,
        code=code_hash("frcore.report.figures"),
    shell:
        'python "$SCRIPTS"/make_panel.py --titles {params.titles:q} --restored {input.restored:q}'
        " --degraded {input.degraded:q} --drawn {input.drawn:q} {params.truth}"
        " --n {params.n} --out {output:q} > {log} 2>&1"


rule panel_of_strengths:
    """An entry of `figures:`: faces under several degradations, restored by its models."""
    input:
        restored=lambda wc: figure_cells(wc.figure, f"{OUT}/restored/{{m}}/{{d}}/{{g}}"),
        degraded=lambda wc: figure_cells(wc.figure, f"{OUT}/degraded/{{d}}/{{g}}"),
        drawn=lambda wc: figure_cells(wc.figure, f"{OUT}/degraded/{{d}}/{{g}}.csv"),
        truth=lambda wc: true_faces(CFG.figures[wc.figure].dataset),
    output:
        report(
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
        spec=lambda wc: flow.figure_spec(PLAN, wc.figure),
        truth=lambda wc: truth_words(CFG.figures[wc.figure].dataset),
        results=lambda wc: OUT,
        code=code_hash("frcore.report.figures"),
    shell:
        'python "$SCRIPTS"/panel_of_strengths.py --spec {params.spec:q} {params.truth}'
        " --results {params.results:q} --out {output:q} > {log} 2>&1"


rule report_page:
    """One self-contained page: what was run, how it was measured, and what came out."""
    input:
        TABLES,
        f"{OUT}/tables/licences.md",
        f"{OUT}/figures/training.png" if PLAN.trained_models() else [],
        [f"{OUT}/figures/scores/{metric}.png" for metric in PLAN.protocol.metrics],
        [f"{OUT}/models/{name}/weights.json" for name in PLAN.trained_models()],
        [f"{OUT}/models/{name}/samples.png" for name in PLAN.trained_models()],
        [
            f"{OUT}/faces/{d}{kind}"
            for d in CFG.run.datasets
            for kind in (".csv", ".quarantine.csv")
        ],
        [f"{OUT}/figures/panels/{d}/{g}.png" for d, g in CFG.test_sets()],
        [f"{OUT}/figures/strengths/{name}.png" for name in CFG.run.figures],
        [
            f"{OUT}/figures/degradations/{d}/{g}.png"
            for g, d in CFG.first_shown().items()
            if CFG.run.contact_sheets
        ],
    output:
        REPORT,
    log:
        f"{OUT}/logs/report/page.log",
    localrule: True
    conda:
        "../envs/frcore.yaml"
    params:
        config=flow.config_spec(PLAN),
        code=code_hash("frcore.report.stage"),
    shell:
        'python "$SCRIPTS"/make_report.py --config {params.config:q} --out {output:q} > {log} 2>&1'
