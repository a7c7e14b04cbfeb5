"""From face photographs to the tables and figures of five face restoration papers.

`snakemake --cores N` runs the selection of config.yaml; see README.md.
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: workflow.source_path("config.yaml")


include: "rules/common.smk"
include: "rules/assets.smk"
include: "rules/faces.smk"
include: "rules/degrade.smk"
include: "rules/train.smk"
include: "rules/prior.smk"
include: "rules/learned.smk"
include: "rules/restore.smk"
include: "rules/samples.smk"
include: "rules/metrics.smk"
include: "rules/report.smk"


rule all:
    """Tables, figures and the report page of the selected run."""
    default_target: True
    input:
        REPORT,
        TABLES,


rule tables:
    """The long table and the comparison table alone."""
    input:
        TABLES,


onstart:
    before_any_job()
