"""The built-in pipeline `readqc`: a quality report on the reads of a FASTQ file. Pure Python, nothing to install.

`source` unpacks the file, `fastq` finds and checks the records, `tally` counts, `summary` evaluates the counts and
`report` writes the results; `work` runs all of them, for the pipeline and for `python -m tidewire.pipelines.readqc`.
"""
