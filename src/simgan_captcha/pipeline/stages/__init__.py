"""The work of each stage of a run; `pipeline.graph` lists the stages."""
