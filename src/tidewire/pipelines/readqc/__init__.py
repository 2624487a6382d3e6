"""How good the reads of a FASTQ file are: the pipeline that the server has by itself. Pure Python, nothing to install.

`source` unpacks, `fastq` finds and checks the records, `tally` counts, `summary` draws conclusions, `report` writes
them; `work` does it all, for the steps of the pipeline and for `python -m tidewire.pipelines.readqc`.
"""
